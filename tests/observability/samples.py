"""A step's metrics for the tests of this folder."""

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.observability.metrics import StepMetrics, UseMetrics
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.observability.stragglers import SectionTime


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


def use_of(step: int) -> UseMetrics:
    times = {Section.DATA_WAIT: SectionTime(median=0.1, slowest=0.2, rank=1)}
    return UseMetrics(step=step, mfu=None, tflops=0.5, data_wait_share=0.25, memory_gb=1.5, sections=times)
