"""The matrix products and attentions of a forward pass, by the unit of the chain, and their operations, a multiply-add as two.

Elementwise work (norms, activations, softmax, the 3-tap convolution over time) is left out, as torch's own counter does.
A backward pass costs twice a forward pass. Counts are of the whole model, not of one tensor-parallel rank.
"""

from functools import singledispatch
from typing import NamedTuple

from megatron_mplug2.config.checks import padded_vocab
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.head_units import ContrastUnit, InstructionLMUnit, MaskedLMUnit, MatchingUnit
from megatron_mplug2.models.shapes import BatchShape
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


class Product(NamedTuple):
    """[rows, inputs] times [inputs, outputs]."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs


class Attention(NamedTuple):
    """Scores and weighted values of all heads, whose widths sum to `width`."""

    batch: int
    queries: int
    keys: int
    width: int

    @property
    def flops(self) -> int:
        return 4 * self.batch * self.queries * self.keys * self.width


Work = tuple[Product | Attention, ...]


def unit_flops(unit: Unit, shape: BatchShape, config: RunConfig) -> int:
    """Operations of one unit's forward pass on a microbatch of `shape`; 0 where the unit is idle in the shape's task.

    Raises TypeError for a kind of unit that has no formula here.
    """
    return sum(piece.flops for piece in unit_work(unit, shape, config))


def unit_work(unit: Unit, shape: BatchShape, config: RunConfig) -> Work:
    """What they are the operations of."""
    return () if unit.flow(shape.task).idle else _work(unit, shape, config)


def _linear(rows: int, inputs: int, outputs: int) -> Work:
    return (Product(rows, inputs, outputs),)


def _attention(batch: int, queries: int, keys: int, width: int) -> Work:
    return (Attention(batch, queries, keys, width),)


def _self_block(length: int, batch: int, width: int, ffn: int) -> Work:
    """Self-attention and FFN."""
    rows = length * batch
    products = _linear(rows, width, 3 * width) + _linear(rows, width, width) + 2 * _linear(rows, width, ffn)
    return products + _attention(batch, length, length, width)


def _cross_products(length: int, batch: int, memory: int, memory_batch: int, width: int) -> Work:
    """Projections of a cross-attention of [length, batch] to [memory, memory_batch]; keys and values once a memory row."""
    return 2 * _linear(length * batch, width, width) + _linear(memory * memory_batch, width, 2 * width)


def _text_block(length: int, batch: int, config: RunConfig) -> Work:
    return _self_block(length, batch, config.model.text.hidden, config.model.text.ffn)


def _text_cross(length: int, batch: int, memory: int, config: RunConfig) -> Work:
    """Each row attends to a memory of its own."""
    width = config.model.text.hidden
    return _cross_products(length, batch, memory, batch, width) + _attention(batch, length, memory, width)


@singledispatch
def _work(unit: Unit, shape: BatchShape, config: RunConfig) -> Work:
    raise TypeError(f"no formula for the operations of a {type(unit).__name__}")


@_work.register
def _vision_embedding(unit: VisionEmbeddingUnit, shape: BatchShape, config: RunConfig) -> Work:
    vision = config.model.vision
    return _linear(shape.samples * shape.frames * shape.patches, 3 * vision.patch**2, vision.width)


@_work.register
def _vision_block(unit: VisionBlockUnit, shape: BatchShape, config: RunConfig) -> Work:
    vision = config.model.vision
    pictures = shape.samples * shape.frames
    work = _self_block(shape.frame_tokens, pictures, vision.width, vision.ffn)
    if shape.task is Task.VIDEO_TEXT or unit.temporal_on_images:
        work += vision.temporal_modules * 2 * _linear(shape.frame_tokens * pictures, vision.width, vision.width // 2)
    return work


@_work.register
def _vision_output(unit: VisionOutputUnit, shape: BatchShape, config: RunConfig) -> Work:
    width, hidden = config.model.vision.width, config.model.text.hidden
    return () if width == hidden else _linear(shape.visual_length * shape.samples, width, hidden)


@_work.register(TextEmbeddingUnit)
@_work.register(DecoderEmbeddingUnit)
def _embedding(unit: Unit, shape: BatchShape, config: RunConfig) -> Work:
    return ()


@_work.register
def _text_layer(unit: TextLayerUnit, shape: BatchShape, config: RunConfig) -> Work:
    return _text_block(shape.text_length, shape.text_rows, config)


@_work.register
def _universal(unit: UniversalUnit, shape: BatchShape, config: RunConfig) -> Work:
    text = _text_block(shape.text_length, shape.text_rows, config)
    if shape.task is Task.TEXT:
        return text
    queries, visual, batch = config.model.text.queries, shape.visual_length, shape.samples
    stream, memory = (visual, queries) if unit.last else (queries, visual)
    return text + _text_block(stream, batch, config) + _text_cross(stream, batch, memory, config)


@_work.register
def _fusion(unit: FusionUnit, shape: BatchShape, config: RunConfig) -> Work:
    """All texts of a picture are queries side by side, in one attention; those that attend to another's are in a second one."""
    length, batch, memory, width = shape.text_length, shape.fused_rows, shape.visual_length, config.model.text.hidden
    apart = shape.negative_pictures
    beside = _attention(shape.samples, length * ((batch - apart) // shape.samples), memory, width)
    attended = beside + _attention(apart, length, memory, width) if apart else beside
    return _text_block(length, batch, config) + _cross_products(length, batch, memory, shape.samples, width) + attended


@_work.register
def _decoder_layer(unit: DecoderLayerUnit, shape: BatchShape, config: RunConfig) -> Work:
    length, batch = shape.target_length, shape.decoder_rows
    memory = shape.text_length + (0 if shape.task is Task.TEXT else shape.visual_length)
    return _text_block(length, batch, config) + _text_cross(length, batch, memory, config)


@_work.register
def _masked_lm(unit: MaskedLMUnit, shape: BatchShape, config: RunConfig) -> Work:
    """The vocabulary's share is an expectation: documents without padding, of whose tokens `mlm.probability` are asked for."""
    hidden, rows = config.model.text.hidden, shape.text_length * shape.samples * shape.texts
    asked = round(rows * config.objectives.mlm.probability)
    return _linear(rows, hidden, hidden) + _linear(asked, hidden, padded_vocab(config.model.text.vocab_size))


@_work.register
def _contrast(unit: ContrastUnit, shape: BatchShape, config: RunConfig) -> Work:
    """The projections; the similarities of the global batch are the step's, not the unit's."""
    return 2 * _linear(shape.samples, config.model.text.hidden, config.model.contrastive_width)


@_work.register
def _matching(unit: MatchingUnit, shape: BatchShape, config: RunConfig) -> Work:
    return _linear(shape.pairs * shape.samples, config.model.text.hidden, 2)


@_work.register
def _instruction_lm(unit: InstructionLMUnit, shape: BatchShape, config: RunConfig) -> Work:
    hidden, rows = config.model.text.hidden, shape.target_length * shape.decoder_rows
    return _linear(rows, hidden, hidden) + _linear(rows, hidden, padded_vocab(config.model.text.vocab_size))
