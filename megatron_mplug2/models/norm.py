"""LayerNorm on sequence shards. Megatron-Core's torch norm refuses sequence parallelism."""

import torch
from torch import nn

from megatron_mplug2.models.kernels import add_norm
from megatron_mplug2.parallel.topology import Topology


class AddNorm(nn.LayerNorm):
    """`add_norm` as a module: where gathering of weights overlaps the forward pass, what waits for them are hooks on modules' calls."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, branch: torch.Tensor | None = None, shown: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return add_norm(x, self.weight, self.bias, self.eps, branch, shown)


def layer_norm(width: int, eps: float, topology: Topology) -> nn.LayerNorm:
    """A replicated LayerNorm whose gradients are summed over tensor-parallel ranks where its input is a sequence shard."""
    norm = nn.LayerNorm(width, eps=eps)
    mark_on_shard(norm, topology)
    return norm


def add_layer_norm(width: int, eps: float, topology: Topology) -> AddNorm:
    """As `layer_norm`, of a residual sum that it makes too."""
    norm = AddNorm(width, eps=eps)
    mark_on_shard(norm, topology)
    return norm


def mark_on_shard(module: nn.Module, topology: Topology) -> None:
    """Declares that a module's replicated parameters see only a sequence shard, so that their gradients are partial sums."""
    for parameter in module.parameters():
        parameter.sequence_parallel = topology.sequence_parallel  # type: ignore[attr-defined]
