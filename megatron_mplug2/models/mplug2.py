"""mPLUG-2 assembled: the whole chain of units, and a stage, a contiguous slice of it, as a module."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from megatron_mplug2.config.model import Block, ModelConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Streams, Unit
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.head_units import (
    DECODER_EMBEDDING,
    TEXT_EMBEDDING,
    ContrastUnit,
    InstructionLMUnit,
    MaskedLMUnit,
    MatchingUnit,
)
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.units import (
    DecoderEmbeddingUnit,
    DecoderLayerUnit,
    FusionUnit,
    TextEmbeddingUnit,
    TextLayerUnit,
    UniversalUnit,
    VisionBlockUnit,
    VisionEmbeddingUnit,
    VisionOutputUnit,
)
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.objectives.weighted import EVERY, weighted

CONTRAST = ContrastUnit.name


@dataclass(frozen=True)
class Tie:
    """A head that shares the word embeddings of an embedding unit."""

    embedding: str
    head: str


TIES = (Tie(TEXT_EMBEDDING, MaskedLMUnit.name), Tie(DECODER_EMBEDDING, InstructionLMUnit.name))


def run_chain(config: RunConfig) -> tuple[Unit, ...]:
    """The chain as a run's steps use it: idle where no objective of some weight asks for work."""
    return chain(config.model, weighted(config.objectives))


def chain(config: ModelConfig, objectives: frozenset[Objective] = EVERY) -> tuple[Unit, ...]:
    """The links of mPLUG-2 in order: vision, text, universal, MLM and contrast, fusion, matching, decoder."""
    text_layers = config.text.layers - config.text.universal_layers
    universal = config.text.universal_layers
    return (
        VisionEmbeddingUnit(),
        *(VisionBlockUnit(index, config.vision.temporal_on_images) for index in range(config.vision.blocks)),
        VisionOutputUnit(),
        TextEmbeddingUnit(),
        *(TextLayerUnit(index) for index in range(text_layers)),
        *(UniversalUnit(index, first=index == 0, last=index == universal - 1) for index in range(universal)),
        MaskedLMUnit(config, objectives),
        ContrastUnit(objectives),
        *(FusionUnit(index, objectives) for index in range(config.fusion_layers)),
        MatchingUnit(objectives),
        DecoderEmbeddingUnit(objectives),
        *(DecoderLayerUnit(index, objectives) for index in range(config.decoder_layers)),
        InstructionLMUnit(config, objectives),
    )


class Stage(nn.Module):
    """The units of one pipeline stage, with their modules."""

    def __init__(self, units: Sequence[Unit], context: ModelContext, recompute: Collection[Block] = ()) -> None:
        super().__init__()
        self.units = tuple(units)
        self._context, self._recompute = context, recompute
        self.blocks = nn.ModuleDict()
        built: dict[str, nn.Module] = {}
        for unit in self.units:
            built[unit.name] = unit.build(context, built)
            self.blocks[unit.name.replace(".", "_")] = built[unit.name]

    def block(self, unit: str) -> nn.Module:
        """The module of a unit, by the unit's name."""
        return self.blocks[unit.replace(".", "_")]

    def forward(self, streams: Streams, micro: Microbatch) -> Streams:
        """Runs the units that the microbatch's task needs; losses gather in `micro`."""
        streams = dict(streams)
        for unit in self.units:
            if not unit.flow(micro.task).idle:
                streams.update(self._run(unit, streams, micro))
            if micro.features_only and unit.name == CONTRAST:
                break
        return streams

    def _run(self, unit: Unit, streams: Streams, micro: Microbatch) -> Streams:
        module, flow = self.block(unit.name), unit.flow(micro.task)
        names = flow.reads

        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # Keyed here, so that a recompute draws the same masks again. What has no trained weight is a fixed function: a mask would be
            # noise in it that nothing learns to bear.
            if self.training and any(param.requires_grad for param in module.parameters()):
                self._context.dropout.start(micro.step, micro.index, unit.name)
            else:
                self._context.dropout.stop()
            written = unit.run(module, dict(zip(names, tensors, strict=True)), micro)
            return tuple(written[name] for name in flow.writes if name in written)

        tensors = tuple(streams[name] for name in names)
        if unit.block in self._recompute and torch.is_grad_enabled():
            outputs = checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)
        else:
            outputs = run(*tensors)
        return dict(zip(flow.writes, outputs, strict=False))
