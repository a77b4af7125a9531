"""What is said about one training step, and about how well the ranks were used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.observability.stragglers import SectionTime


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    step: int
    """Index of the step, from 0."""
    task: Task
    losses: Mapping[str, float]
    """By objective (mlm, vlc, vlm, lm), unweighted means over the global batch; those of the step's task."""
    grad_norm: float
    """Before clipping."""
    lr: float
    temperature: float
    """Of the contrastive similarity."""
    samples_per_s: float
    data_wait_s: float
    """Time that the step waited for its batch."""
    step_s: float
    """Wall time of the step, the wait included."""
    substituted: int
    """Bad samples so far in the run, in whose place others were taken."""
    bad: str | None = None
    """Why the step made no update; None where it did."""
    module_grad_norms: Mapping[str, float] = field(default_factory=dict)
    """By module (vision, temporal, text, universal, fusion, decoder, heads), before clipping; empty but for logged steps."""
    module_weight_norms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UseMetrics:
    """Of the steps since the last logged one."""

    step: int
    """The last of them."""
    mfu: float | None
    """Model FLOPs utilisation; None where a device's peak is not known."""
    tflops: float
    """The model's operations a second of one device."""
    data_wait_share: float
    """Of the time, on the rank that waited longest for its batches."""
    memory_gb: float
    """Most memory of a rank: allocated on its GPU, or resident on the CPU."""
    sections: Mapping[Section, SectionTime]
