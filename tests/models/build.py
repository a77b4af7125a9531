"""A whole model on this rank's tensor-parallel share, with its weights by name."""

import zlib
from dataclasses import dataclass

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.weights import Weight, named_weights
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.gather import gather_rows
from megatron_mplug2.parallel.topology import StageRoles, Topology, make_topology

LAYOUTS = {
    "TP1": LayoutConfig(),
    "TP2": LayoutConfig(tensor=2),
    "TP2+SP": LayoutConfig(tensor=2, sequence_parallel=True),
}


@dataclass(frozen=True, kw_only=True)
class Built:
    stage: Stage
    context: ModelContext
    weights: list[Weight]

    @property
    def topology(self) -> Topology:
        return self.context.topology


def build(config: ModelConfig, layout: LayoutConfig) -> Built:
    """All units in one stage, weights not yet set. The world must have `layout.world_size` ranks."""
    topology = make_topology(layout, StageRoles(ties=((0, 0), (0, 0))))
    context = ModelContext(config=config, topology=topology, dropout=KeyedDropout(0, topology))
    stage = Stage(chain(config), context)
    return Built(stage=stage, context=context, weights=named_weights(stage, topology))


def randomise(built: Built) -> None:
    """Noise on every weight, drawn by its name: none stays zero or one, and no layout gives another value."""
    for weight in built.weights:
        generator = torch.Generator().manual_seed(zlib.crc32(weight.name.encode()))
        full = torch.randn(weight.full_size, generator=generator) * 0.2 + ("norm.weight" in weight.name)
        weight.load_full(full, built.topology)


def whole(shard: torch.Tensor, weight: Weight, topology: Topology) -> torch.Tensor:
    """This rank's part of a weight, or of its gradient -> the full, unpadded tensor, on every tensor-parallel rank. Not differentiable."""
    if weight.partition_dim is None:
        return shard
    rows = gather_rows(shard.movedim(weight.partition_dim, 0), topology.tensor_group)
    size = weight.full_size[weight.partition_dim]
    assert not rows[size:].any()  # the vocabulary's padding
    return rows[:size].movedim(0, weight.partition_dim)
