"""A step's metrics for the tests of this folder."""

from megatron_mplug2.config.schema import Task
from megatron_mplug2.observability.metrics import StepMetrics


def metrics_of(step: int, task: Task = Task.VIDEO_TEXT, substituted: int = 0, **losses: float) -> StepMetrics:
    return StepMetrics(
        step=step,
        task=task,
        losses=losses or {"vlc": 3.5},
        grad_norm=1.5,
        lr=1e-4,
        temperature=0.07,
        samples_per_s=93.21,
        data_wait_s=0.01,
        step_s=0.5,
        substituted=substituted,
    )
