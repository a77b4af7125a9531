"""Weights of the released mPLUG-2 (caption and VQA layouts) as this project's canonical, unsharded weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from megatron_mplug2.config.schema import ModelConfig
from megatron_mplug2.conversion.released_file import is_dead, numbered, released_tensors
from megatron_mplug2.conversion.released_rules import Rule, rules
from megatron_mplug2.errors import UserError

FUSION = "fusion_encoder.encoder.layer"

MISSING = (
    "heads.mlm.bias",
    "heads.mlm.dense.bias",
    "heads.mlm.dense.weight",
    "heads.mlm.norm.bias",
    "heads.mlm.norm.weight",
    "heads.contrast.log_temperature",
    "heads.contrast.text.bias",
    "heads.contrast.text.weight",
    "heads.contrast.vision.bias",
    "heads.contrast.vision.weight",
    "heads.matching.classifier.bias",
    "heads.matching.classifier.weight",
)
"""The pretraining heads: the released fine-tuned models have none."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a released file."""

    used: tuple[str, ...]
    """Released names (without `bert.`) whose values are in the weights."""
    ignored: tuple[str, ...]
    """Released names that the model never runs: momentum twins, CLIP's text tower, unused layers."""
    missing: tuple[str, ...]
    """Canonical names of weights that the file doesn't have; they keep their initial values."""


def from_released(state_dict: Mapping[str, object], config: ModelConfig) -> tuple[dict[str, torch.Tensor], Report]:
    """Every weight that a released file holds, full and unsharded under its canonical name, in the file's data type.

    `state_dict`: what torch.load gave, the weights themselves or with them under 'model' or 'module'.

    Raises:
        UserError: a weight isn't there, has another shape than `config` asks for, is tied to another and differs from it, or is
            neither used nor known to be dead.
    """
    tensors = released_tensors(state_dict)
    fusion = numbered(tensors, FUSION)
    fusion_start = max(0, max(fusion, default=-1) + 1 - config.fusion_layers)
    table = tuple(rules(config, fusion_start))
    used = tuple(source.name for rule in table for source in rule.sources)
    weights = {rule.name: _apply(rule, tensors) for rule in table}
    unused_fusion = tuple(f"{FUSION}.{index}." for index in fusion if index < fusion_start)
    left = sorted(set(tensors) - set(used))
    unexpected = [name for name in left if not (is_dead(name) or name.startswith(unused_fusion))]
    if unexpected:
        shown = ", ".join(unexpected[:3]) + (", ..." if len(unexpected) > 3 else "")
        raise UserError(f"{len(unexpected)} weights have no place in this model ({shown}): the file is of another model")
    return weights, Report(used=used, ignored=tuple(left), missing=MISSING)


def _apply(rule: Rule, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    parts = []
    for source in rule.sources:
        if source.name not in tensors:
            raise UserError(f"no {source.name} in the file: it isn't a released mPLUG-2 checkpoint, or of another size than the model")
        tensor = tensors[source.name]
        if tuple(tensor.shape) != source.shape:
            sizes = f"{list(tensor.shape)} in the file, {list(source.shape)} in the model"
            raise UserError(f"{source.name} is {sizes}: choose the model config that the file is of")
        parts.append(tensor)
    return rule.assemble(*parts)
