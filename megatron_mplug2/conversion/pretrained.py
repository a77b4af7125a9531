"""A run's beginning from CLIP and BERT, as released mPLUG-2 began: a checkpoint for `initialise_from`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path

import torch

from data_tools.fresh_file import check_free
from megatron_mplug2.config.load import load_model
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.conversion.checkpoints import write_checkpoint
from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.conversion.pretrained_names import Tensors, bert_as_released, clip_as_released
from megatron_mplug2.conversion.released import Report
from megatron_mplug2.conversion.released_rules import Rule, rules
from megatron_mplug2.conversion.tensor_files import open_tensors
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.initialise import initial_value

POSITIONS = "visual_encoder.visual.positional_embedding"


class Positions(StrEnum):
    """What CLIP's table of positions becomes."""

    RESIZED = "resized"
    """The same table, for the model's grid."""
    ZERO = "zero"
    """Zeros, as the released code leaves it by a mistake."""


def pretrained_to_checkpoint(out: Path, model: Path, *, clip: Path | None, bert: Path | None, positions: Positions, seed: int) -> Report:
    """Makes `out`. What neither file has gets the initial value that a run with this seed would give it, named as missing.

    Raises:
        UserError: neither file is named, one isn't what it should be or of another size than the model, or `out` is taken.
    """
    check_free(out)
    config = load_model(model)
    released: Tensors = {}
    if clip is None and bert is None:
        raise UserError("nothing to begin with: name --clip, --bert or both")
    if clip is not None:
        released |= _named_as_released(clip, clip_as_released, config)
        if positions is Positions.ZERO:
            released[POSITIONS] = torch.zeros_like(released[POSITIONS])
    if bert is not None:
        released |= _named_as_released(bert, bert_as_released, config)
    weights, report = initial_weights(released, config, seed)
    write_checkpoint(out, weights, config, {})
    return report


def initial_weights(released: Mapping[str, torch.Tensor], config: ModelConfig, seed: int) -> tuple[list[LazyWeight], Report]:
    """Every weight of a model in fp32: from tensors under released names where all parts of it are there, else its initial value.

    Raises UserError where a tensor has another size than the model.
    """
    weights, used, missing = [], [], []
    sizes: dict[str, torch.Size] = {}
    for rule in rules(config, config.text.layers - config.fusion_layers):
        if all(source.name in released for source in rule.sources):
            used += [source.name for source in rule.sources]
            weights.append(LazyWeight(name=rule.name, size=rule.size, dtype=torch.float32, read=_assembled(rule, released)))
        else:
            sizes[rule.name] = rule.size
    decoder_head = {weight.name: weight for weight in weights if weight.name.startswith("heads.lm.")}
    for name, size in (sizes | _head_sizes(config)).items():
        # BERT's MLM head is the decoder's beginning, and what it was: the text encoder's.
        if same := decoder_head.get(name.replace("heads.mlm.", "heads.lm.")):
            weights.append(replace(same, name=name))
            continue
        missing.append(name)
        draw = partial(initial_value, name, tuple(size), config, VLCConfig().temperature, seed)
        weights.append(LazyWeight(name=name, size=size, dtype=torch.float32, read=draw))
    ignored = tuple(sorted(set(released) - set(used)))
    return weights, Report(used=tuple(dict.fromkeys(used)), ignored=ignored, missing=tuple(missing))


def _named_as_released(path: Path, rename: Callable[[Tensors, ModelConfig], Tensors], config: ModelConfig) -> Tensors:
    try:
        return rename(open_tensors(path), config)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(str(path)) else f"{path}: {line}") from None


def _assembled(rule: Rule, released: Mapping[str, torch.Tensor]) -> partial[torch.Tensor]:
    parts = []
    for source in rule.sources:
        found = released[source.name]
        if tuple(found.shape) != source.shape:
            raise UserError(f"{source.name} is {list(found.shape)} in the file, {list(source.shape)} in the model: take another --model")
        parts.append(found)
    return partial(_assemble, rule, parts)


def _assemble(rule: Rule, parts: list[torch.Tensor]) -> torch.Tensor:
    return rule.assemble(*(part.float() for part in parts))


def _head_sizes(config: ModelConfig) -> dict[str, torch.Size]:
    """Of the pretraining heads, which no released file has."""
    hidden, width = config.text.hidden, config.contrastive_width
    sizes = {
        "heads.mlm.bias": (config.text.vocab_size,),
        "heads.mlm.dense.bias": (hidden,),
        "heads.mlm.dense.weight": (hidden, hidden),
        "heads.mlm.norm.bias": (hidden,),
        "heads.mlm.norm.weight": (hidden,),
        "heads.contrast.log_temperature": (),
        "heads.contrast.text.bias": (width,),
        "heads.contrast.text.weight": (width, hidden),
        "heads.contrast.vision.bias": (width,),
        "heads.contrast.vision.weight": (width, hidden),
        "heads.matching.classifier.bias": (2,),
        "heads.matching.classifier.weight": (2, hidden),
    }
    return {name: torch.Size(size) for name, size in sizes.items()}
