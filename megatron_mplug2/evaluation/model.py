"""A model ready for inference: with the weights that training starts from, or those of a checkpoint of any layout."""

from pathlib import Path

from megatron_mplug2.checkpoint import inspection, store
from megatron_mplug2.checkpoint.contents import WEIGHT, key_of
from megatron_mplug2.config.load import parse_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.models.build import build_stage
from megatron_mplug2.models.mplug2 import chain
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import make_topology


def check_layout(config: RunConfig) -> None:
    """Raises UserError for a layout with pipeline stages: evaluation runs whole models."""
    if config.layout.pipeline > 1:
        raise UserError(
            f"layout.pipeline={config.layout.pipeline}: evaluation runs on one pipeline stage; set layout.pipeline=1 "
            "(a checkpoint of any layout loads)"
        )


def built(config: RunConfig) -> tuple[Inference, list[Weight]]:
    """A model with the weights of step 0. Collective over the world; raises UserError as `check_layout`."""
    check_layout(config)
    partition = Partition(chain(config.model), (0,))
    stage = build_stage(config, partition, make_topology(config.layout, partition.roles))
    return Inference(stage.stage, stage.context), stage.weights


def trained(config: RunConfig, place: Path) -> tuple[Inference, store.Found]:
    """With the weights of a checkpoint, or of a run's best one, if it keeps that, else its newest good one, and what that is. Collective
    over the world.

    Raises:
        UserError: as `check_layout`, or there is no good checkpoint, or it is of another model or vocabulary.
    """
    check_layout(config)
    found = store.find_best(place)
    if not any(key.startswith(key_of(WEIGHT, "decoder.")) for key in found.stored.sizes()):
        raise UserError(f"{found.checkpoint} has no decoder, so it can say nothing: take a checkpoint of a whole model")
    inference, weights = built(config)
    store.load_weights(found, weights, inference.context.topology)
    fingerprint = Tokenizer(config.data.vocab, config.model.text.vocab_size).fingerprint
    if found.state.data.get("vocabulary", fingerprint) != fingerprint:
        raise UserError(f"{found.checkpoint} was trained with another vocabulary than data.vocab={config.data.vocab}: put that one back")
    return inference, found


def recorded_config(place: Path) -> RunConfig:
    """The config that a checkpoint, or a run's newest one, was saved with. Not collective, and nothing is verified.

    Raises:
        UserError: there is none, or this version cannot read its config.
    """
    checkpoint = inspection.checkpoint_of(place)
    state = store.read_run(checkpoint)
    if not state.of_run:
        raise UserError(f"{checkpoint} was made by `mplug2 convert`, not by a run: name the folder that it was made of")
    return parse_resolved(state.config, str(checkpoint / store.RUN))
