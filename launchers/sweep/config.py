"""A sweep in one file: a run's config, a product of layouts, and how the batch follows the ranks."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from launchers.yaml_file import read_yaml
from megatron_mplug2.config.node import Frozen

Size = Annotated[int, Field(gt=0)]


class Scaling(StrEnum):
    STRONG = "strong"
    """The same global batch for any number of ranks."""
    WEAK = "weak"
    """The same samples for each data-parallel rank."""


class Recompute(StrEnum):
    NONE = "none"
    FULL = "full"


class SweepConfig(Frozen):
    folder: Path
    """Of its points, jobs, results and report; of storage that the nodes share. Relative to the current folder, as all paths."""
    config: Path
    """Of the run that each point is, in all but what stands below. The first phase of its schedule is what is measured."""
    overrides: tuple[str, ...] = ()
    """`key=value`, as on the command line."""
    scaling: Scaling
    batch: int = Field(gt=0)
    """Samples a step: of all ranks together (strong), or of each data-parallel rank (weak)."""
    nodes: tuple[Size, ...] = Field(default=(1,), min_length=1)
    node_ranks: int = Field(gt=0)
    """Of a full node; a single node may have fewer."""
    tensor: tuple[Size, ...] = Field(default=(1,), min_length=1)
    pipeline: tuple[Size, ...] = Field(default=(1,), min_length=1)
    data: tuple[Size, ...] | None = Field(default=None, min_length=1)
    """None: as many as fill the nodes."""
    microbatch: tuple[Size, ...] = Field(min_length=1)
    recompute: tuple[Recompute, ...] = Field(default=(Recompute.NONE,), min_length=1)
    steps: int = Field(gt=1)
    """Of a point."""
    warmup_steps: int = Field(gt=0)
    """Of these, the first ones, which are not measured."""
    at_once: int = Field(default=1, gt=0)
    """Most points of an array that SLURM runs at the same time. Here they go one after the other."""
    gpu: str | None = None
    """A name of `models.memory_fit.GPU_GB`: layouts that need more memory than it has are left out. None: nothing is known about memory."""

    @model_validator(mode="after")
    def _check(self) -> "SweepConfig":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} leaves none of steps={self.steps} to be measured: lower it")
        for name in ("nodes", "tensor", "pipeline", "data", "microbatch", "recompute"):
            sizes = getattr(self, name) or ()
            if len(set(sizes)) < len(sizes):
                raise ValueError(f"{name} names a size twice: take one out")
        return self


def read_sweep(path: Path) -> SweepConfig:
    """Raises UserError, in one line."""
    return read_yaml(SweepConfig, path, f"sweep {path}", "name a file like configs/sweep/demo_strong.yaml")
