"""Weights of the released mPLUG-2 (caption and VQA layouts) as this project's canonical, unsharded weights, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.conversion.released_file import is_dead, numbered, released_tensors, spelt, with_tied_copies
from megatron_mplug2.conversion.released_rules import Rule, Source, rules
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A released file that fits a model, every name of it accounted for."""

    rules: tuple[Rule, ...]
    tensors: Mapping[str, torch.Tensor]
    """By released name without `bert.`."""
    report: Report

    def weights(self) -> list[LazyWeight]:
        """Every weight that the file holds, made when it is read."""
        return [
            LazyWeight(name=rule.name, size=rule.size, dtype=self.tensors[rule.sources[0].name].dtype, read=partial(self._read, rule))
            for rule in self.rules
        ]

    def _read(self, rule: Rule) -> torch.Tensor:
        return rule.assemble(*(self.tensors[source.name] for source in rule.sources))


def plan_released(state_dict: Mapping[str, object], config: ModelConfig) -> Plan:
    """What becomes of a released file; no weight is made yet.

    `state_dict`: what torch.load gave, the weights themselves or with them under 'model' or 'module'.

    Raises:
        UserError: a weight isn't there, has another shape than `config` asks for, is tied to another and differs from it, or is
            neither used nor known to be dead.
    """
    tensors = released_tensors(state_dict)
    fusion = numbered(tensors, FUSION)
    fusion_start = max(0, max(fusion, default=-1) + 1 - config.fusion_layers)
    table = tuple(rules(config, fusion_start))
    for rule in table:
        for source in rule.sources:
            _check(source, tensors)
    used = tuple(source.name for rule in table for source in rule.sources)
    unused_fusion = tuple(f"{FUSION}.{index}." for index in fusion if index < fusion_start)
    left = sorted(set(tensors) - set(used))
    unexpected = [name for name in left if not (is_dead(name) or name.startswith(unused_fusion))]
    if unexpected:
        shown = ", ".join(unexpected[:3]) + (", ..." if len(unexpected) > 3 else "")
        raise UserError(f"{len(unexpected)} weights have no place in this model ({shown}): the file is of another model")
    return Plan(rules=table, tensors=tensors, report=Report(used=used, ignored=tuple(left), missing=MISSING))


def to_released(weights: Sequence[LazyWeight], config: ModelConfig) -> tuple[dict[str, torch.Tensor], Report]:
    """The released layout of a model's weights, tied pairs twice as there, without dead weights; and what became of ours.

    In the report `used` and `ignored` are canonical names; nothing can be `missing`.

    Raises:
        UserError: a weight isn't there, has another size than `config` asks for, or belongs to no such model.
    """
    table = check_whole(weights, config)
    by_name = {weight.name: weight for weight in weights}
    released: dict[str, torch.Tensor] = {}
    for rule in table:
        released |= {spelt(name): tensor for name, tensor in rule.released(by_name[rule.name].read()).items()}
    used = tuple(rule.name for rule in table)
    return with_tied_copies(released), Report(used=used, ignored=tuple(sorted(set(by_name) - set(used))), missing=())


def check_whole(weights: Sequence[LazyWeight], config: ModelConfig) -> tuple[Rule, ...]:
    """Raises UserError where the weights aren't those of a model, with or without its pretraining heads; what released files hold of it."""
    by_name = {weight.name: weight for weight in weights}
    table = tuple(rules(config, config.text.layers - config.fusion_layers))
    for rule in table:
        if rule.name not in by_name:
            raise UserError(f"no {rule.name} among the weights: they aren't a whole mPLUG-2 model")
        if by_name[rule.name].size != rule.size:
            sizes = f"{list(by_name[rule.name].size)} in the file, {list(rule.size)} in the model"
            raise UserError(f"{rule.name} is {sizes}: the config is another model's")
    heads = set(MISSING) & set(by_name)
    if foreign := sorted(set(by_name) - {rule.name for rule in table} - heads):
        raise UserError(f"{foreign[0]} has no place in mPLUG-2: the weights are another model's")
    if heads and (absent := sorted(set(MISSING) - heads)):
        raise UserError(f"no {absent[0]} among the weights, which have other pretraining heads: they aren't a whole mPLUG-2 model")
    return table


def _check(source: Source, tensors: Mapping[str, torch.Tensor]) -> None:
    if source.name not in tensors:
        raise UserError(f"no {source.name} in the file: it isn't a released mPLUG-2 checkpoint, or of another size than the model")
    found = tuple(tensors[source.name].shape)
    if found != source.shape:
        sizes = f"{list(found)} in the file, {list(source.shape)} in the model"
        raise UserError(f"{source.name} is {sizes}: choose the model config that the file is of")
