"""How ranks share a run's work, and what shares out gradients and optimizer."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from megatron_mplug2.config.node import Frozen


class EngineChoice(StrEnum):
    """What shares gradients and optimizer out over data-parallel ranks. The model, the data and the checkpoints are the same."""

    MEGATRON = "megatron"
    """Megatron-Core: every layout, ZeRO-1 by `layout.zero1`."""
    DEEPSPEED = "deepspeed"
    """DeepSpeed, by the section `deepspeed`: ZeRO 1, 2 and 3, on one pipeline stage."""


class LayoutConfig(Frozen):
    """How the ranks share the work: world size = tensor x pipeline x data."""

    tensor: int = Field(default=1, gt=0)
    pipeline: int = Field(default=1, gt=0)
    data: int = Field(default=1, gt=0)
    sequence_parallel: bool = False
    zero1: bool = True
    """Shard the optimizer state over data-parallel ranks (Megatron-Core's DistributedOptimizer). `training.engine: deepspeed` has stages of
    its own and does not read it."""
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    stage_starts: tuple[int, ...] | None = None
    """Index in the chain of the first block of each stage after stage 0; None cuts by cost."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def shards_optimizer(self) -> bool:
        """`zero1` where there is more than one rank to shard over: alone, a rank would scatter and gather for nothing."""
        return self.zero1 and self.data > 1

    @property
    def overlaps_reduction(self) -> bool:
        return self.overlap_grad_reduce and self.data > 1

    @property
    def overlaps_gathering(self) -> bool:
        return self.overlap_param_gather and self.data > 1


class DeepSpeedConfig(Frozen):
    """What DeepSpeed shards, for `training.engine: deepspeed`."""

    zero_stage: Literal[1, 2, 3] = 2
    """Over data-parallel ranks: 1 the optimizer state, 2 gradients too, 3 weights too, which each module gathers when it runs."""
    offload_optimizer: bool = False
    """Main weights and optimizer state lie in host memory, and are updated there."""
