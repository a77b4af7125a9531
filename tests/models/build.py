"""A whole model on this rank's tensor-parallel share, with its weights by name."""

from dataclasses import dataclass

from megatron_mplug2.config.schema import LayoutConfig, ModelConfig
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.weights import Weight, named_weights
from megatron_mplug2.parallel.dropout import KeyedDropout
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
