"""From the folder of a point's run to its figures, over the steps after the warm-up.

The share of communication is that of two sections of a step: the first collective, where ranks wait for the one whose batch comes last,
and the reduction of gradients, where they wait for the one whose backward pass ends last. What tensor and pipeline parallelism send, and
VLC's features, lie within the passes, and no clock tells them apart; their bytes are counted by `planner.traffic`.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

from launchers.sweep.hosts import machines_of, read_hosts
from launchers.sweep.results import Measured, Spread
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.observability.report.metrics_file import Metrics, read_metrics
from megatron_mplug2.observability.run_history import FINISHED, Event, read_history
from megatron_mplug2.observability.sections import Section

STEP = (
    Section.DATA_WAIT,
    Section.MEETING,
    Section.FEATURE_PASS,
    Section.FORWARD_BACKWARD,
    Section.GRADIENT_REDUCTION,
    Section.OPTIMIZER,
)
"""Sections that a step is made of; what is logged about it comes after."""
COMMUNICATION = (Section.MEETING, Section.GRADIENT_REDUCTION)


class NotMeasuredError(Exception):
    """Why a run's folder has no figures to give, in one line."""


def has_finished(run_dir: Path) -> bool:
    """Whether a run in this folder went to its end, as far as it told."""
    events, _ = read_history(run_dir)
    return bool(events) and events[-1]["event"] == Event.END and events[-1].get("reason") == FINISHED


def measure(run: RunConfig, warmup_steps: int) -> Measured:
    """Raises NotMeasuredError."""
    begin = _last_begin(run.run_dir)
    if begin is None or not has_finished(run.run_dir):
        raise NotMeasuredError("its record tells of no end")
    metrics = read_metrics(run.run_dir)
    if metrics.bad_steps:
        step, reason = metrics.bad_steps[0]
        raise NotMeasuredError(f"step {step} made no update: {reason}")
    first = begin + warmup_steps
    steps = range(first, run.steps)
    if not steps:
        raise NotMeasuredError(f"it was started again {run.steps - begin} steps before its end, all of them warm-up")
    seconds = _values(metrics, "step_s", steps)
    if len(seconds) < len(steps):
        raise NotMeasuredError(f"{len(seconds)} of its {len(steps)} steps after the warm-up are in its record")
    try:
        machines = machines_of(read_hosts(run.run_dir, run.layout.world_size))
    except ValueError as error:
        raise NotMeasuredError(str(error)) from None
    sections = {section: _values(metrics, f"section/{section}", steps, missing=0.0) for section in STEP}
    shares = [sum(parts) / whole for *parts, whole in zip(*(sections[section] for section in COMMUNICATION), seconds, strict=True)]
    mfu = _values(metrics, "use/mfu", steps)
    return Measured(
        steps=len(steps),
        step_s=_spread(seconds),
        sections={section.value: _spread(values) for section, values in sections.items() if any(values)},
        samples_per_s=run.training.global_batch / median(seconds),
        mfu=median(mfu) if mfu else None,
        tflops=median(_values(metrics, "use/tflops", steps, missing=0.0)),
        memory_gb=float(max(metrics.of("use/memory_gb").values, default=0.0)),
        communication=min(1.0, median(shares)),
        machines=machines,
    )


def _last_begin(run_dir: Path) -> int | None:
    """Steps that were done when the run was started for the last time: a job that SLURM took back goes on from its checkpoint."""
    events, _ = read_history(run_dir)
    begins = [int(event["step"]) for event in events if event["event"] == Event.START]
    return begins[-1] if begins else None


def _values(metrics: Metrics, name: str, steps: range, missing: float | None = None) -> list[float]:
    """At these steps; what was not logged is left out, or `missing`."""
    series = metrics.of(name)
    found = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
    values = (found.get(step, missing) for step in steps)
    return [value for value in values if value is not None]


def _spread(values: Sequence[float]) -> Spread:
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Spread(low=low, median=middle, high=high)
