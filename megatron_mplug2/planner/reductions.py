"""What tensor parallelism sums over its ranks, by the unit of the chain: an all-reduce at the end of each row-parallel product.

With sequence parallelism each is a reduce-scatter and an all-gather of as many bytes, and sequences are padded to whole shards. Heads'
losses over the split vocabulary are left out: they exchange a few numbers a row.
"""

from dataclasses import dataclass
from functools import singledispatch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.head_units import InstructionLMUnit, MaskedLMUnit
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.stage_weights import planned_topology
from megatron_mplug2.models.units import (
    DecoderEmbeddingUnit,
    DecoderLayerUnit,
    FusionUnit,
    TextEmbeddingUnit,
    TextLayerUnit,
    UniversalUnit,
    VisionBlockUnit,
)
from megatron_mplug2.parallel.sequence import SequenceShards


@dataclass(frozen=True, kw_only=True)
class Reductions:
    """Elements of each all-reduce of one microbatch."""

    forward: tuple[int, ...] = ()
    backward: tuple[int, ...] = ()
    """As many as forward in blocks, of the gradients of what came in; then of what cross-attention looks at."""


def reductions(unit: Unit, shape: BatchShape, config: RunConfig) -> Reductions:
    """None where the unit is idle in the shape's task."""
    return Reductions() if unit.flow(shape.task).idle else _reductions(unit, shape, config)


def _padded(length: int, config: RunConfig) -> int:
    """A sequence as tensor-parallel ranks hold it together."""
    return SequenceShards(planned_topology(config.layout)).padded(length)


def _self_block(length: int, rows: int, config: RunConfig) -> tuple[int, ...]:
    return (_padded(length, config) * rows * config.model.text.hidden,) * 2


def _cross_block(length: int, rows: int, memory: int, memory_rows: int, config: RunConfig) -> Reductions:
    """Self-attention, cross-attention and FFN; `memory` is padded already."""
    hidden = config.model.text.hidden
    inside = (_padded(length, config) * rows * hidden,) * 3
    return Reductions(forward=inside, backward=(*inside, memory * memory_rows * hidden))


@singledispatch
def _reductions(unit: Unit, shape: BatchShape, config: RunConfig) -> Reductions:
    """Of units that every tensor-parallel rank runs whole."""
    return Reductions()


@_reductions.register
def _vision_block(unit: VisionBlockUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    vision = config.model.vision
    temporal = vision.temporal_modules if shape.task is Task.VIDEO_TEXT or unit.temporal_on_images else 0
    inside = (_padded(shape.frame_tokens, config) * shape.samples * shape.frames * vision.width,) * (2 + temporal)
    return Reductions(forward=inside, backward=inside)


@_reductions.register
def _text_embedding(unit: TextEmbeddingUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    return Reductions(forward=(_padded(shape.text_length, config) * shape.text_rows * config.model.text.hidden,))


@_reductions.register
def _decoder_embedding(unit: DecoderEmbeddingUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    return Reductions(forward=(_padded(shape.target_length, config) * shape.decoder_rows * config.model.text.hidden,))


@_reductions.register
def _text_layer(unit: TextLayerUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    inside = _self_block(shape.text_length, shape.text_rows, config)
    return Reductions(forward=inside, backward=inside)


@_reductions.register
def _universal(unit: UniversalUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    text = _self_block(shape.text_length, shape.text_rows, config)
    if shape.task is Task.TEXT:
        return Reductions(forward=text, backward=text)
    visual, queries = shape.visual_length, config.model.text.queries
    stream, memory = (visual, queries) if unit.last else (queries, visual)
    vision = _cross_block(stream, shape.samples, _padded(memory, config), shape.samples, config)
    return Reductions(forward=(*text, *vision.forward), backward=(*text, *vision.backward))


@_reductions.register
def _fusion(unit: FusionUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    return _cross_block(shape.text_length, shape.fused_rows, _padded(shape.visual_length, config), shape.samples, config)


@_reductions.register
def _decoder_layer(unit: DecoderLayerUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    memory = _padded(shape.text_length, config) + (0 if shape.task is Task.TEXT else _padded(shape.visual_length, config))
    return _cross_block(shape.target_length, shape.decoder_rows, memory, shape.decoder_rows, config)


@_reductions.register
def _masked_lm(unit: MaskedLMUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    """All tokens, of which the logits take those that are asked for."""
    return Reductions(backward=(_padded(shape.text_length, config) * shape.samples * shape.texts * config.model.text.hidden,))


@_reductions.register
def _instruction_lm(unit: InstructionLMUnit, shape: BatchShape, config: RunConfig) -> Reductions:
    return Reductions(backward=(_padded(shape.target_length, config) * shape.decoder_rows * config.model.text.hidden,))
