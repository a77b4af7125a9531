"""The life of a run on the clock: its starts and ends, checkpoints, bad steps; and a table of all of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from megatron_mplug2.observability.report.axis import short
from megatron_mplug2.observability.report.run_folder import Run
from megatron_mplug2.observability.run_history import FINISHED, Event
from megatron_mplug2.pages.markup import amount, shown, table

MOST_ROWS = 400
"""Of the table: the last ones."""
MOST_MARKS = 2000
"""Of a lane of the drawing: the last ones."""
TICKS = 4
_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


class Kind(StrEnum):
    """How a start ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    """By a signal, in good order."""
    FAILED = "failed"
    OPEN = "open"
    """No end was written."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """From a start to its end."""

    begin: float
    end: float
    kind: Kind
    told: str


def spans(run: Run) -> list[Span]:
    found: list[Span] = []
    start: Mapping[str, Any] | None = None
    for event in run.events:
        if event["event"] == Event.START:
            start = event
        elif event["event"] == Event.END and start is not None:
            reason = str(event.get("reason", ""))
            told = f"steps {start['step']} to {event['step']}: {reason}"
            found.append(Span(begin=start["at"], end=max(event["at"], start["at"]), kind=_kind(reason), told=told))
            start = None
    if start is not None:
        told = f"from step {start['step']}: no end is written"
        found.append(Span(begin=start["at"], end=max(run.last_sign, start["at"]), kind=Kind.OPEN, told=told))
    return found


def _kind(reason: str) -> Kind:
    return {FINISHED: Kind.FINISHED, "stopped": Kind.STOPPED}.get(reason, Kind.FAILED)


def timeline(run: Run) -> str:
    """Empty where a run has no history."""
    lives = spans(run)
    if not lives:
        return ""
    begin, end = lives[0].begin, max(span.end for span in lives)
    clock = _Clock(begin=begin, end=max(end, begin + 1))
    kept = {checkpoint.step for checkpoint in run.checkpoints}
    lanes = [
        ("starts", "".join(clock.bar(span) for span in lives)),
        ("checkpoints", clock.marks(_of(run.events, Event.CHECKPOINT), lambda event: "kept" if event["step"] in kept else "gone")),
        ("bad steps", clock.marks(_of(run.events, Event.BAD_STEP, Event.ROLL_BACK), lambda event: "trouble")),
    ]
    rows = "".join(f'<span class="lane">{name}</span><svg height="22">{drawn}</svg>' for name, drawn in lanes if drawn)
    return (
        f'<figure class="timeline" role="img" aria-label="Timeline">{rows}<span class="lane"></span>{clock.axis()}</figure>'
        f"<p class='legend'>{_legend(run, lives)}</p>"
    )


def _legend(run: Run, lives: Sequence[Span]) -> str:
    """Of what there is."""
    kinds = {span.kind for span in lives}
    keys = [f"<span>first start: {moment(lives[0].begin)} UTC</span>"]
    keys += [f"<span class='key area {kind}'>{'no end written' if kind is Kind.OPEN else kind}</span>" for kind in Kind if kind in kinds]
    if _of(run.events, Event.CHECKPOINT):
        keys.append("<span class='key points kept'>checkpoint that is there</span>")
        keys.append("<span class='key points gone'>removed since, or not completed</span>")
    return "".join(keys)


def _of(events: Sequence[Mapping[str, Any]], *kinds: Event) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] in kinds][-MOST_MARKS:]


@dataclass(frozen=True, kw_only=True)
class _Clock:
    """Wall time, in percent of the width."""

    begin: float
    end: float

    def percent(self, at: float) -> float:
        return 100 * min(max((at - self.begin) / (self.end - self.begin), 0.0), 1.0)

    def bar(self, span: Span) -> str:
        left, right = self.percent(span.begin), self.percent(span.end)
        shape = f'x="{left:.2f}%" width="{max(right - left, 0.3):.2f}%" y="3" height="16" rx="3"'
        return f'<rect class="{span.kind}" {shape}><title>{shown(span.told, 300)}</title></rect>'

    def marks(self, events: Sequence[Mapping[str, Any]], kind_of: Callable[[Mapping[str, Any]], str]) -> str:
        return "".join(
            f'<circle class="{kind_of(event)}" cx="{self.percent(event["at"]):.2f}%" cy="11" r="4">'
            f"<title>{shown(event['event'])}, step {event['step']}</title></circle>"
            for event in events
        )

    def axis(self) -> str:
        """Ticks at round times since the start."""
        seconds, unit = next((size, name) for size, name in _UNITS if self.end - self.begin >= 2 * size or size == 1.0)
        span = (self.end - self.begin) / seconds
        every = next(step for step in _steps() if span / step <= TICKS)
        ticks = [number * every for number in range(int(span / every) + 1)]
        drawn = "".join(
            f'<line x1="{100 * tick / span:.2f}%" x2="{100 * tick / span:.2f}%" y1="0" y2="5"/>'
            f'<text class="tick{" first" if not tick else ""}" x="{100 * tick / span:.2f}%" y="19">{short(tick)}</text>'
            for tick in ticks
            if tick <= 0.94 * span
        )
        title = f'<text class="title x-title" x="50%" y="36">{unit} since the first start</text>'
        return f'<svg class="times" height="40"><line x1="0" x2="100%" y1="0.5" y2="0.5"/>{drawn}{title}</svg>'


def _steps() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def events_table(run: Run) -> str:
    """Every event in words, and bad steps that only the metrics know of."""
    if not run.events and not run.metrics.bad_steps:
        return "<p>Nothing is written about its starts and ends.</p>"
    sizes = {checkpoint.step: checkpoint.size for checkpoint in run.checkpoints}
    told = {event["step"] for event in _of(run.events, Event.BAD_STEP)}
    rows = [(moment(event["at"]), shown(event["event"]), f"{event['step']:,}", _details(event, sizes)) for event in run.events]
    rows += [("", Event.BAD_STEP, f"{step:,}", shown(reason)) for step, reason in run.metrics.bad_steps if step not in told]
    dropped = f"<p>The last {MOST_ROWS} of {len(rows)} events:</p>" if len(rows) > MOST_ROWS else ""
    return dropped + table(("time (UTC)", "event", "steps done", ""), rows[-MOST_ROWS:])


def _details(event: Mapping[str, Any], sizes: Mapping[int, int]) -> str:
    """Markup."""
    kind, said = event["event"], []
    if kind == Event.START:
        said.append(_layout(event))
    if kind == Event.CHECKPOINT:
        said.append(amount(sizes[event["step"]]) if event["step"] in sizes else "no longer there, or not completed")
    if event.get("lost_steps"):
        said.append(f"{shown(event['lost_steps'])} steps are lost")
    if event.get("reason"):
        said.append(shown(event["reason"], 600))
    return "; ".join(part for part in said if part)


def _layout(event: Mapping[str, Any]) -> str:
    sizes = [f"{name} {shown(event[name])}" for name in ("tensor", "pipeline", "data") if name in event]
    ranks = f"{shown(event.get('world_size', '?'))} ranks"
    return f"{ranks} ({', '.join(sizes)})" if sizes else ranks


def moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    """Such as 3.2 d, 13.4 min, 8 s."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
