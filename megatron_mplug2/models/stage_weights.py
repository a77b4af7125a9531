"""The weights that each pipeline stage will hold, without a byte of memory for them and without a process group."""

import math
from dataclasses import replace
from functools import cache

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.mplug2 import TIES, Stage, chain
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight, named_weights
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import Topology


def planned_topology(layout: LayoutConfig) -> Topology:
    """The first rank's place in a layout of which no process is there: sizes, and no groups."""
    groups = ProcessGroupCollection()
    for name in ("tp", "cp"):
        setattr(groups, name, None)
    return Topology(
        rank=0,
        world_size=layout.world_size,
        tensor_rank=0,
        tensor_size=layout.tensor,
        pipeline_rank=0,
        pipeline_size=layout.pipeline,
        data_rank=0,
        data_size=layout.data,
        sequence_parallel=layout.sequence_parallel,
        groups=groups,
        host_group=None,  # type: ignore[arg-type]
        tensor_host_group=None,
        background_group=None,  # type: ignore[arg-type]
        pipeline_ranks=tuple(range(layout.pipeline)),
        features_group=None,
        tie_groups=(),
    )


def stage_weights(model: ModelConfig, partition: Partition, stage: int) -> list[Weight]:
    """Every weight of a stage, whole, on the meta device; its copies of tied ones last."""
    units = [unit.name for unit in partition.stage_units(stage)]
    weights = chain_weights(model)
    here = [weight for unit in units for weight in weights[unit]]
    copied = [tie.embedding for tie in TIES if tie.head in units and tie.embedding not in units]
    tables = [weight for unit in copied for weight in weights[unit] if weight.name == f"{unit}.word.weight"]
    return [*here, *(replace(table, saves=False) for table in tables)]


@cache
def chain_weights(model: ModelConfig) -> dict[str, list[Weight]]:
    """Those of each unit. Many layouts are compared for one model."""
    topology = planned_topology(LayoutConfig())
    context = ModelContext(config=model, topology=topology, dropout=KeyedDropout(0, topology))
    units = chain(model)
    with torch.device("meta"):
        weights = named_weights(Stage(units, context), topology)
    return {unit.name: [weight for weight in weights if weight.name.startswith(f"{unit.name}.")] for unit in units}


def rank_elements(weight: Weight, tensor: int) -> int:
    """Elements of a whole weight that each of `tensor` ranks holds, the vocabulary's padding counted."""
    return math.prod(weight.param.shape) // (tensor if weight.partition_dim is not None else 1)
