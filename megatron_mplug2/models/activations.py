"""Bytes that a unit's forward pass keeps for its backward on one rank, by the unit of the chain.

What autograd saves of the modules as they are written, beside the streams that the unit reads and writes (those are the stage's,
`stage_memory`). Row statistics of norms and attention, masks of keys and indices are left out: a hundredth or so. Attention is counted as
fused kernels do it, without its matrix of probabilities, and with its output once: a kernel that gives that in another order than the
projection takes it (CUDA's memory-efficient one) makes the projection keep it again.
"""

from dataclasses import dataclass
from functools import singledispatch

from megatron_mplug2.config.checks import padded_vocab
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
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

FP32 = 4


def element_bytes(config: RunConfig) -> int:
    """Of a weight, an activation and a message."""
    return 2 if config.training.precision is Precision.BF16 else FP32


def kept_bytes(unit: Unit, shape: BatchShape, config: RunConfig) -> int:
    """Kept of one microbatch of `shape`; 0 where the unit is idle in the shape's task.

    Raises TypeError for a kind of unit that has no formula here.
    """
    return 0 if unit.flow(shape.task).idle else round(_kept(unit, shape, _Rank(config)))


@dataclass(frozen=True)
class _Rank:
    """Tensors [length, rows, width] as one rank holds them, in bytes."""

    config: RunConfig

    @property
    def hidden(self) -> int:
        return self.config.model.text.hidden

    @property
    def sequence_shards(self) -> int:
        layout = self.config.layout
        return layout.tensor if layout.sequence_parallel else 1

    def padded(self, length: int) -> int:
        return -(-length // self.sequence_shards) * self.sequence_shards

    def stream(self, length: int, rows: int, width: int) -> float:
        """Outside attention and FFN: whole, or with sequence parallelism the rank's tokens."""
        return element_bytes(self.config) * self.padded(length) / self.sequence_shards * rows * width

    def split(self, length: int, rows: int, width: int) -> float:
        """Inside attention and FFN: the rank's heads or channels of all tokens."""
        return element_bytes(self.config) * self.padded(length) * rows * width / self.config.layout.tensor

    def dropped(self, length: int, rows: int) -> float:
        """A dropout's mask on hidden states: a byte an element, as on GPUs."""
        text = self.config.model.text
        return self.stream(length, rows, text.hidden) / element_bytes(self.config) if text.dropout else 0

    def logits(self, rows: int) -> float:
        """The softmax that the token losses keep, in fp32."""
        return FP32 * rows * padded_vocab(self.config.model.text.vocab_size) / self.config.layout.tensor


def _added_and_normed(rank: _Rank, length: int, rows: int) -> float:
    """A post-LN residual: the norm's input and the dropout's mask."""
    return rank.stream(length, rows, rank.hidden) + rank.dropped(length, rows)


def _text_block(rank: _Rank, length: int, rows: int) -> float:
    """Post-LN self-attention and FFN, without their input and output."""
    # Queries, keys, values, and what attention gives.
    attention = 4 * rank.split(length, rows, rank.hidden) + _added_and_normed(rank, length, rows)
    # Before the activation and after it.
    ffn = 2 * rank.split(length, rows, rank.config.model.text.ffn) + _added_and_normed(rank, length, rows)
    return attention + rank.stream(length, rows, rank.hidden) + ffn


def _text_cross(rank: _Rank, length: int, rows: int, memory: int, memory_rows: int) -> float:
    """Cross-attention to [memory, memory_rows], in a block, with what the norm before it gives; without the memory itself."""
    queries = 2 * rank.split(length, rows, rank.hidden) + rank.stream(length, rows, rank.hidden)
    return queries + 2 * rank.split(memory, memory_rows, rank.hidden) + _added_and_normed(rank, length, rows)


@singledispatch
def _kept(unit: Unit, shape: BatchShape, rank: _Rank) -> float:
    raise TypeError(f"no formula for the activations of a {type(unit).__name__}")


@_kept.register
def _vision_embedding(unit: VisionEmbeddingUnit, shape: BatchShape, rank: _Rank) -> float:
    vision, pictures = rank.config.model.vision, shape.samples * shape.frames
    # The normalised pixels that the convolution takes, and the norm's input.
    return element_bytes(rank.config) * pictures * (shape.patches * 3 * vision.patch**2 + shape.frame_tokens * vision.width)


@_kept.register
def _vision_block(unit: VisionBlockUnit, shape: BatchShape, rank: _Rank) -> float:
    vision, length, pictures = rank.config.model.vision, shape.frame_tokens, shape.samples * shape.frames
    whole, split = rank.stream(length, pictures, vision.width), rank.split(length, pictures, vision.width)
    # Quick GELU keeps one tensor, and the projection after it another.
    kept = 3 * whole + 4 * split + 2 * rank.split(length, pictures, vision.ffn)
    if shape.task is Task.VIDEO_TEXT or unit.temporal_on_images:
        # Of the bottleneck: the clip, and that shifted back and on, what quick GELU keeps, its output.
        bottleneck = (3 if shape.frames == 1 else 5) * split / 2
        kept += vision.temporal_modules * (2 * whole + bottleneck)
    return kept


@_kept.register
def _vision_output(unit: VisionOutputUnit, shape: BatchShape, rank: _Rank) -> float:
    width, length = rank.config.model.vision.width, shape.visual_length
    # The norm's input is the rank's view of the whole.
    kept: float = element_bytes(rank.config) * rank.padded(length) * shape.samples * width
    if width != rank.hidden:
        kept += rank.stream(length, shape.samples, width) + _added_and_normed(rank, length, shape.samples)
    return kept


def _embedded(rank: _Rank, length: int, rows: int) -> float:
    """The norm's input, before the sequence is split, and the dropout's mask."""
    return element_bytes(rank.config) * length * rows * rank.hidden + rank.dropped(length, rows)


@_kept.register
def _text_embedding(unit: TextEmbeddingUnit, shape: BatchShape, rank: _Rank) -> float:
    return _embedded(rank, shape.text_length, shape.text_rows)


@_kept.register
def _decoder_embedding(unit: DecoderEmbeddingUnit, shape: BatchShape, rank: _Rank) -> float:
    return _embedded(rank, shape.target_length, shape.decoder_rows)


@_kept.register
def _text_layer(unit: TextLayerUnit, shape: BatchShape, rank: _Rank) -> float:
    return _text_block(rank, shape.text_length, shape.text_rows)


@_kept.register
def _universal(unit: UniversalUnit, shape: BatchShape, rank: _Rank) -> float:
    text = _text_block(rank, shape.text_length, shape.text_rows)
    if shape.task is Task.TEXT:
        return text
    queries, visual, batch = rank.config.model.text.queries, shape.visual_length, shape.samples
    stream, memory = (visual, queries) if unit.last else (queries, visual)
    vision = _text_block(rank, stream, batch) + _text_cross(rank, stream, batch, memory, batch)
    if unit.first:
        vision += rank.stream(queries, batch, rank.hidden)
    if unit.last:
        vision += _added_and_normed(rank, visual, batch)
    return text + vision


@_kept.register
def _fusion(unit: FusionUnit, shape: BatchShape, rank: _Rank) -> float:
    length, rows = shape.text_length, shape.fused_rows
    gathered = 0 if unit.index else rank.stream(length, rows, rank.hidden)
    # Keys and values of each picture, and again of the negative ones.
    memories = shape.samples + shape.negative_pictures
    # Queries side by side, and what attention gives before all rows have their order again.
    beside = rank.split(length, 2 * rows - shape.negative_pictures, rank.hidden)
    return gathered + _text_block(rank, length, rows) + _text_cross(rank, length, rows, shape.visual_length, memories) + beside


@_kept.register
def _decoder_layer(unit: DecoderLayerUnit, shape: BatchShape, rank: _Rank) -> float:
    length, rows = shape.target_length, shape.decoder_rows
    if shape.task is Task.TEXT:
        return _text_block(rank, length, rows) + _text_cross(rank, length, rows, shape.text_length, rows)
    # Every layer joins visual tokens and prompt anew.
    joined = rank.padded(shape.visual_length) + rank.padded(shape.text_length)
    return _text_block(rank, length, rows) + _text_cross(rank, length, rows, joined, rows) + rank.stream(joined, rows, rank.hidden)


@_kept.register
def _masked_lm(unit: MaskedLMUnit, shape: BatchShape, rank: _Rank) -> float:
    """As `flops` does, documents without padding."""
    rows = shape.samples * shape.texts
    asked = round(shape.text_length * rows * rank.config.objectives.mlm.probability)
    # Its half of the text stream, GELU's input and output, and the asked rows.
    dense = 3 * rank.stream(shape.text_length, rows, rank.hidden)
    return dense + element_bytes(rank.config) * asked * rank.hidden + rank.logits(asked)


def _first_tokens(rank: _Rank, rows: int) -> float:
    """Views of the streams, or what a gather of every rank's first token gives."""
    return rank.sequence_shards * element_bytes(rank.config) * rows * rank.hidden if rank.sequence_shards > 1 else 0


@_kept.register
def _contrast(unit: ContrastUnit, shape: BatchShape, rank: _Rank) -> float:
    """Beside the features, which are the step's."""
    return _first_tokens(rank, 2 * shape.samples)


@_kept.register
def _matching(unit: MatchingUnit, shape: BatchShape, rank: _Rank) -> float:
    return _first_tokens(rank, shape.pairs * shape.samples)


@_kept.register
def _instruction_lm(unit: InstructionLMUnit, shape: BatchShape, rank: _Rank) -> float:
    length, rows = shape.target_length, shape.decoder_rows
    # GELU's input and output; the norm's output, of all tokens.
    dense = 2 * rank.stream(length, rows, rank.hidden) + element_bytes(rank.config) * length * rows * rank.hidden
    return dense + rank.logits((length - 1) * rows)
