"""The head of the page: how the run stands, in one sentence and a few numbers."""

from collections.abc import Iterator

import numpy as np

from megatron_mplug2.observability.report.axis import short
from megatron_mplug2.observability.report.run_folder import Run
from megatron_mplug2.observability.report.timeline import Kind, duration, moment, spans
from megatron_mplug2.pages.markup import apart, shown

_LAST_POINTS = 20
"""Logged steps that the present throughput is the median of."""


def steps_done(run: Run) -> int:
    """As far as anybody wrote it down."""
    logged = run.metrics.last_step
    last = run.events[-1]["step"] if run.events else 0
    return max(0 if logged is None else logged + 1, last)


def state(run: Run) -> str:
    """A sentence, as markup."""
    lives = spans(run)
    if not lives:
        return f"Last written at {moment(run.last_sign)} UTC; nothing is written about its starts and ends."
    last, ago = lives[-1], max(run.looked_at - run.last_sign, 0)
    if last.kind is Kind.OPEN:
        return f"No end is written: it is running, or was killed. Its last sign came {duration(ago)} before this page was made."
    when = f"at {moment(last.end)} UTC"
    if last.kind is Kind.FINISHED:
        return f"Finished {when}."
    if last.kind is Kind.STOPPED:
        return f"Stopped {when}; the same command goes on from there."
    return f"Ended {when}: {apart(run.events[-1].get('reason', ''), 600)}"


def tiles(run: Run) -> str:
    """Markup."""
    return "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in _numbers(run) if value)


def _numbers(run: Run) -> Iterator[tuple[str, str]]:
    done, config, summary = steps_done(run), run.config, run.summary
    yield (f"steps of {config.steps:,} done", f"{done:,}") if config is not None else ("steps done", f"{done:,}")
    yield "effective training time", _percent(summary.get("effective_training_time"))
    wall = summary.get("wall_s")
    yield "since the first start", duration(wall) if isinstance(wall, int | float) else ""
    rates = run.metrics.of("samples_per_s").values
    yield "samples per second, lately", short(float(np.median(rates[-_LAST_POINTS:]))) if len(rates) else ""
    use = run.metrics.of("use/mfu").values
    yield "MFU, lately", _percent(float(np.median(use[-_LAST_POINTS:]))) if len(use) else ""
    if run.contents is not None:
        yield "parameters", short(sum(run.contents.parameters_by_module().values()))
    yield "starts", _count(summary.get("starts"))
    yield "steps lost", _count(summary.get("lost_steps"))
    yield "steps left out", _count(summary.get("steps_left_out"))
    yield "samples replaced", f"{len(run.substitutions):,}"


def _percent(share: object) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else ""


def _count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else ""


def doubts(run: Run) -> Iterator[str]:
    """What the page could not read, as markup."""
    for name, count in run.skipped.items():
        lines = "line" if count == 1 else "lines"
        yield f"<p class='doubt'>Left out: {count:,} {lines} of {shown(name)} that cannot be read.</p>"
    if run.config is None:
        what = "is of another version" if run.config_text else "is missing"
        yield f"<p class='doubt'>The run's config {what}: layout and phases are not shown.</p>"
