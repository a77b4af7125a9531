"""Weights under canonical, layout-independent names: what initialisation, checkpoints, conversion and optimizer groups are keyed by."""

from dataclasses import dataclass, field

import torch
from torch import nn

from megatron_mplug2.config.model import Module
from megatron_mplug2.models.mplug2 import TIES, Stage
from megatron_mplug2.parallel.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A parameter of this rank, and what it is a part of."""

    name: str
    """Unit and parameter, e.g. "vision.blocks.0.mlp.linear_fc1.weight"; a tied copy has the name of what it is tied to."""
    param: nn.Parameter
    partition_dim: int | None
    """Dimension that is split in equal, contiguous parts over the tensor-parallel ranks; None: replicated."""
    full_size: tuple[int, ...]
    """Unsharded size without padding. Padded vocabulary rows lie past it and stay zero."""
    saves: bool = True
    """False for the second copy of a tied pair on another stage: it loads by its name, but isn't saved or counted."""
    block: tuple[int, ...] = field(init=False)
    """Size of this rank's part of it, padding included; the parameter may lose its own (ZeRO 3 keeps it in pieces)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", tuple(self.param.shape))

    @property
    def module(self) -> Module:
        return Module.TEMPORAL if ".temporal." in self.name else Module(self.name.split(".")[0])

    def shard_of(self, full: torch.Tensor, topology: Topology) -> torch.Tensor:
        """This rank's part of a full, unpadded tensor, zero-padded to the parameter's size."""
        if self.partition_dim is None:
            return full
        rows = self.param.shape[self.partition_dim]
        start = min(rows * topology.tensor_rank, full.shape[self.partition_dim])
        length = min(rows, full.shape[self.partition_dim] - start)
        part = full.narrow(self.partition_dim, start, length)
        if length == rows:
            return part
        padded = torch.zeros(self.param.shape, dtype=full.dtype, device=full.device)
        padded.narrow(self.partition_dim, 0, length).copy_(part)
        return padded

    @torch.no_grad()
    def load_full(self, full: torch.Tensor, topology: Topology) -> None:
        """Copies this rank's part of a full, unpadded tensor into the parameter."""
        self.param.copy_(self.shard_of(full, topology))


def named_weights(stage: Stage, topology: Topology) -> list[Weight]:
    """Every parameter of a stage, once, in the order of the chain."""
    tied = {f"{tie.head}.word": f"{tie.embedding}.word.weight" for tie in TIES}
    weights = []
    seen: set[nn.Parameter] = set()
    for unit in stage.units:
        for name, param in stage.block(unit.name).named_parameters():
            if param in seen:
                continue
            seen.add(param)
            local = f"{unit.name}.{name}"
            canonical = tied.get(local, local)
            weights.append(_weight(canonical, param, saves=canonical == local, tensor_size=topology.tensor_size))
    return weights


def _weight(name: str, param: nn.Parameter, *, saves: bool, tensor_size: int) -> Weight:
    dim: int | None = param.partition_dim if getattr(param, "tensor_model_parallel", False) else None  # type: ignore[attr-defined]
    size = list(param.shape)
    if dim is not None:
        size[dim] *= tensor_size
    rows = getattr(param, "canonical_rows", None)
    if rows is not None:
        size[0] = rows
    return Weight(name=name, param=param, partition_dim=dim, full_size=tuple(size), saves=saves)
