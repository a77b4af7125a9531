"""A rank's part of the model with the weights that training starts from."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from megatron_mplug2.config.model import Block
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.context import ModelContext, dtype_of
from megatron_mplug2.models.initialise import initialise
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight, named_weights
from megatron_mplug2.parallel.device import device
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import Topology

LOG_TEMPERATURE = "heads.contrast.log_temperature"


@dataclass(frozen=True, kw_only=True)
class BuiltStage:
    context: ModelContext
    stage: Stage
    weights: list[Weight]


def build_stage(config: RunConfig, partition: Partition, topology: Topology, recompute: Collection[Block] = ()) -> BuiltStage:
    """This rank's stage, initialised by name, in the config's precision, on this rank's device; the temperature stays in fp32.

    Weights of `training.frozen` have no gradient.
    """
    context = ModelContext(
        config=config.model,
        topology=topology,
        dropout=KeyedDropout(config.training.seed, topology),
        precision=config.training.precision,
    )
    stage = Stage(partition.stage_units(topology.pipeline_rank), context, recompute)
    weights = named_weights(stage, topology)
    initialise(weights, config.model, config.objectives.vlc.temperature, config.training.seed, topology)
    for weight in weights:
        dtype = torch.float32 if weight.name == LOG_TEMPERATURE else dtype_of(config.training.precision)
        weight.param.data = weight.param.data.to(device(), dtype)
        weight.param.requires_grad_(weight.module not in config.training.frozen)
    return BuiltStage(context=context, stage=stage, weights=weights)
