"""LayerNorm on sequence shards. Megatron-Core's torch norm refuses sequence parallelism."""

from torch import nn

from megatron_mplug2.parallel.topology import Topology


def layer_norm(width: int, eps: float, topology: Topology) -> nn.LayerNorm:
    """A replicated LayerNorm whose gradients are summed over tensor-parallel ranks where its input is a sequence shard."""
    norm = nn.LayerNorm(width, eps=eps)
    mark_on_shard(norm, topology)
    return norm


def mark_on_shard(module: nn.Module, topology: Topology) -> None:
    """Declares that a module's replicated parameters see only a sequence shard, so that their gradients are partial sums."""
    for parameter in module.parameters():
        parameter.sequence_parallel = topology.sequence_parallel  # type: ignore[attr-defined]
