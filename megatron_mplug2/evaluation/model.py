"""A model ready for inference: with the weights that training starts from, or those of a checkpoint of any layout."""

from megatron_mplug2.checkpoint import store
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.models.context import ModelContext, dtype_of
from megatron_mplug2.models.initialise import initialise
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import named_weights
from megatron_mplug2.parallel.device import device
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import make_topology

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints inside its run folder."""


def check_layout(config: RunConfig) -> None:
    """Raises UserError for a layout with pipeline stages: evaluation runs whole models."""
    if config.layout.pipeline > 1:
        raise UserError(
            f"layout.pipeline={config.layout.pipeline}: evaluation runs on one pipeline stage; set layout.pipeline=1 "
            "(a checkpoint of any layout loads)"
        )


def built(config: RunConfig) -> tuple[Inference, Stage]:
    """A model with the weights of step 0, and its stage. Collective over the world; raises UserError as `check_layout`."""
    check_layout(config)
    partition = Partition(chain(config.model), (0,))
    topology = make_topology(config.layout, partition.roles)
    context = ModelContext(
        config=config.model,
        topology=topology,
        dropout=KeyedDropout(config.training.seed, topology),
        precision=config.training.precision,
    )
    stage = Stage(partition.units, context)
    weights = named_weights(stage, topology)
    initialise(weights, config.model, config.objectives.vlc.temperature, config.training.seed, topology)
    for weight in weights:
        weight.param.data = weight.param.data.to(device(), dtype_of(config.training.precision))
    return Inference(stage, context), stage


def trained(config: RunConfig) -> tuple[Inference, int]:
    """With the weights of the run's latest checkpoint, and its step. Collective over the world.

    Raises:
        UserError: as `check_layout`, or there is no checkpoint, or it is damaged or of another model.
    """
    inference, stage = built(config)
    topology = inference.context.topology
    state = store.load_weights(config.run_dir / CHECKPOINTS, named_weights(stage, topology), topology)
    return inference, state.step
