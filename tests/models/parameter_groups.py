"""Numbers of parameters by part of the model, without a byte of memory for them."""

import math
from enum import StrEnum

import torch

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.weights import named_weights
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import Topology


class Group(StrEnum):
    """Parts of mPLUG-2 whose sizes are told apart."""

    VISION = "vision"
    """CLIP's ViT, and the projection to the text width where there is one."""
    TEMPORAL_1 = "temporal modules before attention"
    TEMPORAL_2 = "temporal modules before the FFN"
    TEXT_EMBEDDING = "text embeddings"
    TEXT_LAYERS = "text layers"
    UNIVERSAL_SHARED = "universal layers: self-attention and FFN"
    UNIVERSAL_CROSS = "universal layers: cross-attention"
    UNIVERSAL_QUERIES = "universal layers: queries"
    VISUAL_NORM = "norm of the image embeddings"
    FUSION = "fusion layers"
    DECODER_EMBEDDING = "decoder embeddings"
    """Tied with the vocabulary of the LM head."""
    DECODER_LAYERS = "decoder layers"
    LM_HEAD = "LM head"
    MLM_HEAD = "MLM head"
    """Without its vocabulary, which is tied with the text embeddings. This and what follows only pretraining has."""
    CONTRAST_HEAD = "contrastive head"
    MATCHING_HEAD = "matching head"


PRETRAINING_HEADS = (Group.MLM_HEAD, Group.CONTRAST_HEAD, Group.MATCHING_HEAD)

_PARTS = (
    ("heads.lm.", Group.LM_HEAD),
    ("heads.mlm.", Group.MLM_HEAD),
    ("heads.contrast.", Group.CONTRAST_HEAD),
    ("heads.matching.", Group.MATCHING_HEAD),
    (".temporal.0.", Group.TEMPORAL_1),
    (".temporal.1.", Group.TEMPORAL_2),
    ("vision.", Group.VISION),
    ("text.embedding.", Group.TEXT_EMBEDDING),
    ("text.layers.", Group.TEXT_LAYERS),
    (".layer.cross_attention", Group.UNIVERSAL_CROSS),
    (".queries", Group.UNIVERSAL_QUERIES),
    (".visual_norm.", Group.VISUAL_NORM),
    ("universal.layers.", Group.UNIVERSAL_SHARED),
    ("fusion.layers.", Group.FUSION),
    ("decoder.embedding.", Group.DECODER_EMBEDDING),
    ("decoder.layers.", Group.DECODER_LAYERS),
)
"""A part of a weight's name that tells its group; the first that is there counts."""


def parameter_groups(config: ModelConfig, topology: Topology) -> dict[Group, int]:
    """Parameters of each group of the whole, unsharded model; tied ones once, the vocabulary's padding not counted.

    The model is built on torch's meta device. `topology` may be any, one rank's too.
    """
    context = ModelContext(config=config, topology=topology, dropout=KeyedDropout(0, topology))
    with torch.device("meta"):
        stage = Stage(chain(config), context)
    counts = dict.fromkeys(Group, 0)
    for weight in named_weights(stage, topology):
        counts[group_of(weight.name)] += math.prod(weight.full_size)
    return counts


def group_of(name: str) -> Group:
    """The group of a canonical weight name. Raises StopIteration where none fits."""
    return next(group for part, group in _PARTS if part in name)


def live(counts: dict[Group, int]) -> int:
    """Parameters of what the released model has and runs: all groups but the pretraining heads."""
    return sum(count for group, count in counts.items() if group not in PRETRAINING_HEADS)
