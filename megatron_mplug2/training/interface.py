"""What the training loop asks of an engine: Megatron-Core's (`training.engine`) or DeepSpeed's (`training.deepspeed`)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from megatron_mplug2.checkpoint.optimizer_state import Optimizer
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training.momentum import Momentum
from megatron_mplug2.training.pipeline_stage import PipelineStage


class TrainingEngine(Protocol):
    """One rank's stage with its weights, and what trains it. Gradients are plain sums over microbatches and data-parallel ranks."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def partition(self) -> Partition: ...
    @property
    def topology(self) -> Topology: ...
    @property
    def context(self) -> ModelContext: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def pipeline_stage(self) -> PipelineStage: ...
    @property
    def weights(self) -> list[Weight]: ...
    @property
    def clock(self) -> SectionClock: ...
    @property
    def momentum(self) -> Momentum | None: ...

    @property
    def optimizer(self) -> Optimizer:
        """For checkpoints and norms; it is the engine that steps."""

    @property
    def log_temperature(self) -> torch.Tensor | None:
        """The contrastive head's, on the stage that has it. Collective over data-parallel ranks where weights are sharded (ZeRO 3)."""

    @property
    def needs_media(self) -> bool:
        """Whether this stage has the vision encoder's embedding."""

    def zero_gradients(self) -> None:
        """Before a step's backward: all gradients are zero, of weights that its task doesn't use too."""

    def run_features(self, micros: Sequence[Microbatch]) -> list[torch.Tensor]:
        """The first pass of VLC, without gradients: [2, b, d] of each microbatch on the stage that has the contrastive head."""

    def run_microbatches(self, micros: Sequence[Microbatch], *, forward_only: bool) -> None:
        """Forward, and if not `forward_only` backward, which leaves the step's reduced gradients with the optimizer."""

    def gradients_are_finite(self) -> bool:
        """Of all that this rank knows and the norm might not tell."""

    def update(self, step: int, accept: Callable[[float], bool] = ...) -> tuple[float, float]:
        """The optimizer's step, if `accept` agrees to the gradients' norm. Returns that, before clipping, and the rate."""

    def finish_gathering(self) -> None:
        """Makes all weights current, for a look at them before the next forward pass."""

    def evaluated(self) -> AbstractContextManager[None]:
        """Around an evaluation by modules of the stage: every rank has every weight of its stage."""

    def weights_loaded(self) -> None:
        """After weights were written from outside, such as from a checkpoint."""
