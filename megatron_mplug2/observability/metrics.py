"""What is said about one training step."""

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_mplug2.config.schema import Task


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
