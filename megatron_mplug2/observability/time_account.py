"""Where the time of a run went, over all its starts, from what the run and its jobs wrote down about themselves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from megatron_mplug2.observability import run_history
from megatron_mplug2.observability.job_events import SUBMITTED, Event
from megatron_mplug2.observability.spent import Use

IN_GOOD_ORDER = (run_history.FINISHED, run_history.STOPPED)
NO_STEP = "ended before its first step"
NO_END = "goes on, or ended without a word"


class Part(StrEnum):
    """What the time went into, in the order of a start."""

    AWAY = "not submitted"
    """Nobody had asked for a start: after an end without a requeue."""
    QUEUE = "waiting in the queue"
    START_UP = "start-up until the first step"
    """Health check, imports, model, loading a checkpoint."""
    STEPS = "steps"
    """Those that made the weights."""
    LOST = "lost steps"
    """Done again later or without an update; and what an accident left unfinished."""
    CHECKPOINT = "checkpoint stalls"
    VALIDATION = "validation"
    LOGGING = "logging"
    SHUTDOWN = "shutdown"
    """The last checkpoint's end, and parting."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Times are seconds since 1970."""

    begin: float
    end: float
    reason: str
    step: int
    """Steps that were done when it began."""
    reached: int
    """When it ended."""
    lost_steps: int
    """Of it that are not in the weights which a later start went on from; rolled back ones too."""
    seconds: Mapping[Part, float]
    """From the end before (or the first submission) to its own. They add up."""


@dataclass(frozen=True, kw_only=True)
class Account:
    starts: tuple[Start, ...]

    @property
    def wall_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def seconds(self) -> dict[Part, float]:
        return {part: sum(start.seconds.get(part, 0.0) for start in self.starts) for part in Part}

    @property
    def lost_steps(self) -> int:
        return sum(start.lost_steps for start in self.starts)

    @property
    def since_begin_s(self) -> float:
        """Without the wait before the first start."""
        return self.wall_s - sum(self.starts[0].seconds.get(part, 0.0) for part in (Part.AWAY, Part.QUEUE)) if self.starts else 0.0

    @property
    def effective(self) -> float | None:
        """Share of the steps that made the weights in the time since the first start began, as `run_history` has it; None where no time
        has gone by."""
        return self.seconds[Part.STEPS] / self.since_begin_s if self.since_begin_s else None


@dataclass(kw_only=True)
class _Life:
    """What a run wrote of one of its starts."""

    at: float
    """When it was ready for its first step."""
    began: float
    step: int
    reached: int
    productive_s: float
    kept_s: float = 0.0
    """Productive time when it last told."""
    end: float = 0.0
    reason: str = NO_END
    lost_steps: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Stay:
    """Of a job on its nodes, or of a command without a job; with what the run wrote meanwhile."""

    begin: float
    end: float
    life: _Life | None = None
    job: bool = False


def account(history: Sequence[Mapping[str, Any]], events: Sequence[Event], last_sign: float) -> Account:
    """`history`: of `run_history.read_history`. `events`: of all launches. `last_sign`: of a run that tells of no end."""
    lives = list(_lives(history, last_sign))
    stays = _until_its_word(_until_finished(_joined(_stays(events), lives)))
    for before, after in pairwise(stays):
        before.end = min(before.end, after.begin)
    submits = sorted(event.at for event in events if event.event == SUBMITTED)
    starts, end = [], min([*submits[:1], *(stay.begin for stay in stays[:1])], default=0.0)
    for place, stay in enumerate(stays):
        later = [stay.life for stay in stays[place + 1 :] if stay.life is not None]
        waits = _waits(end, stay, submits)
        end = max(stay.end, stay.begin)
        starts.append(_start(stay, waits, later))
    return Account(starts=tuple(starts))


def _lives(history: Sequence[Mapping[str, Any]], last_sign: float) -> Iterator[_Life]:
    life: _Life | None = None
    for event in history:
        if event["event"] == run_history.Event.START:
            if life is not None:
                yield life
            at, step, productive = event["at"], event["step"], _seconds(event.get("productive_s"))
            began = run_history.begin_of(event)
            life = _Life(at=at, began=began, step=step, reached=step, productive_s=productive, kept_s=productive)
            life.end = max(at, last_sign)
        elif life is not None:
            _tell(life, event)
    if life is not None:
        yield life


def _tell(life: _Life, event: Mapping[str, Any]) -> None:
    life.reached = event["step"]
    if isinstance(spent := event.get("spent"), dict):
        life.spent = {str(use): _seconds(seconds) for use, seconds in spent.items()}
        life.kept_s = _seconds(event.get("productive_s"))
    if event["event"] == run_history.Event.ROLL_BACK:
        life.lost_steps += event.get("lost_steps", 0)
    if event["event"] == run_history.Event.END:
        life.end, life.reason = max(event["at"], life.at), str(event.get("reason", ""))


def _seconds(value: object) -> float:
    return max(0.0, float(value)) if isinstance(value, int | float) else 0.0


def _stays(events: Sequence[Event]) -> list[_Stay]:
    """By the jobs' scripts, which write whole seconds; a node that died wrote no end."""
    stays: list[_Stay] = []
    for event in sorted(events, key=lambda event: event.at):
        if event.event == "start":
            stays.append(_Stay(begin=event.at, end=event.at, job=True))
        elif stays and event.event in ("unhealthy", "end"):
            stays[-1].end = event.at
    return stays


def _joined(stays: list[_Stay], lives: Sequence[_Life]) -> list[_Stay]:
    """Each life in the stay that it was in; one that was in none is its own."""
    for life in lives:
        stay = next((stay for stay in reversed(stays) if stay.job and stay.begin <= life.at), None)
        if stay is None or stay.life is not None or (stay.end > stay.begin and life.at > stay.end + 1):
            stays.append(_Stay(begin=life.began, end=life.end, life=life))
        else:
            stay.life, stay.end = life, max(stay.end, life.end)
    return sorted(stays, key=lambda stay: stay.begin)


def _until_finished(stays: list[_Stay]) -> list[_Stay]:
    """Without starts of a finished run, which had nothing to do."""
    lives = [(number, stay.life) for number, stay in enumerate(stays, 1) if stay.life is not None]
    return stays[: lives[-1][0]] if lives and lives[-1][1].reason == run_history.FINISHED else stays


def _until_its_word(stays: list[_Stay]) -> list[_Stay]:
    """The last start up to where the run said its end, if it has, so that the run itself tells the same."""
    if stays and (life := stays[-1].life) is not None and life.reason != NO_END:
        stays[-1].end = life.end
    return stays


def _waits(since: float, stay: _Stay, submits: Sequence[float]) -> dict[Part, float]:
    gap = max(0.0, stay.begin - since)
    asked = [at for at in submits if since <= at <= stay.begin]
    if not stay.job:
        return {Part.AWAY: gap}
    queued = stay.begin - asked[-1] if asked else gap
    return {Part.AWAY: gap - queued, Part.QUEUE: queued}


def _start(stay: _Stay, waits: Mapping[Part, float], later: Sequence[_Life]) -> Start:
    life, end = stay.life, max(stay.end, stay.begin)
    if life is None:
        seconds = {**waits, Part.START_UP: end - stay.begin}
        return Start(begin=stay.begin, end=end, reason=NO_STEP, step=0, reached=0, lost_steps=0, seconds=seconds)
    spent = {use: life.spent.get(use, 0.0) for use in Use}
    kept = min((other.productive_s for other in later), default=life.kept_s) - life.productive_s
    kept = min(max(0.0, kept), spent[Use.STEPS])
    untold = max(0.0, end - life.at - sum(spent.values()))
    in_good_order = life.reason in IN_GOOD_ORDER
    seconds = {
        **waits,
        Part.START_UP: life.at - stay.begin,
        Part.STEPS: kept,
        Part.LOST: spent[Use.STEPS] - kept + (0.0 if in_good_order else untold),
        Part.CHECKPOINT: spent[Use.CHECKPOINT],
        Part.VALIDATION: spent[Use.VALIDATION],
        Part.LOGGING: spent[Use.LOGGING],
        Part.SHUTDOWN: untold if in_good_order else 0.0,
    }
    again = max(0, life.reached - later[0].step) if later else 0
    return Start(
        begin=stay.begin,
        end=end,
        reason=life.reason,
        step=life.step,
        reached=life.reached,
        lost_steps=life.lost_steps + again,
        seconds=seconds,
    )
