"""A model ready for inference: with the weights that training starts from, or those of a checkpoint of any layout."""

from megatron_mplug2.checkpoint import store
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


def trained(config: RunConfig) -> tuple[Inference, store.Found]:
    """With the weights of the run's newest good checkpoint, and what that is. Collective over the world.

    Raises:
        UserError: as `check_layout`, or there is no good checkpoint, or it is of another model or vocabulary.
    """
    inference, weights = built(config)
    found = store.find_in(config.run_dir)
    store.load_weights(found, weights, inference.context.topology)
    fingerprint = Tokenizer(config.data.vocab, config.model.text.vocab_size).fingerprint
    if found.state.data.get("vocabulary", fingerprint) != fingerprint:
        raise UserError(f"{found.checkpoint} was trained with another vocabulary than data.vocab={config.data.vocab}: put that one back")
    return inference, found
