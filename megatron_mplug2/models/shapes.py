"""Streams of activations and their shapes: pure functions of the kind of step, so that both sides of a pipeline cut know them."""

from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.objectives.weighted import contrasts, weighted
from megatron_mplug2.parallel.sequence import SequenceShards


class Stream(StrEnum):
    FRAMES = "frames"
    """[1 + patches of a frame, b * T, vision width]: inside the vision encoder."""
    VISUAL = "visual"
    """[1 + T * patches, b, h]: visual tokens of a clip; after the universal layers, image embeddings."""
    TEXT = "text"
    """[L, rows, h]: captions then instructions (pairs), or masked documents then prefixes (text); of these what an objective reads."""
    QUERIES = "queries"
    """[queries, b, h]: the universal layers' learnable queries."""
    FUSED = "fused"
    """[L, 3b + kb, h]: positives, negative images, negative captions (with VLM), then instructions (with LM)."""
    PROMPT = "prompt"
    """[L, kb or b, h]: fused instructions, or encoded prefixes: what the decoder is asked."""
    DECODER = "decoder"
    """[target length, kb or b, h]."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Everything that tensor shapes of a microbatch depend on."""

    task: Task
    samples: int
    frames: int
    texts: int
    """Rows of TEXT a sample before those of instructions: 1, its caption or masked document; 0 where no objective reads it."""
    pairs: int
    """Rows of FUSED a sample before those of instructions: 3 with VLM, else 0."""
    instructions: int
    """Rows a sample that the decoder is asked: instructions of a picture or clip, or one prefix of a text; 0 without the instruction LM."""
    text_length: int
    target_length: int
    patches: int
    """Patches of a frame."""

    @property
    def frame_tokens(self) -> int:
        return 1 + self.patches

    @property
    def visual_length(self) -> int:
        return 1 + self.frames * self.patches

    @property
    def text_rows(self) -> int:
        return self.samples * (self.texts + self.instructions)

    @property
    def fused_rows(self) -> int:
        return self.samples * (self.pairs + self.instructions)

    @property
    def negative_pictures(self) -> int:
        """Rows of FUSED whose picture is another sample's; every other text attends to its own."""
        return self.samples if self.pairs else 0

    @property
    def decoder_rows(self) -> int:
        return self.samples * self.instructions


def batch_shape(config: RunConfig, task: Task, *, samples: int, frames: int, resolution: int) -> BatchShape:
    """The shape of a microbatch of `samples` samples; pictures have one frame, two that are seen together have two; text, the same at every
    resolution, has no patches."""
    data, objectives = config.data, weighted(config.objectives)
    instructions = 1 if task is Task.TEXT else config.objectives.lm.instructions
    return BatchShape(
        task=task,
        samples=samples,
        frames=frames if task is Task.VIDEO_TEXT else config.pictures,
        texts=int(Objective.MLM in objectives if task is Task.TEXT else contrasts(objectives, task)),
        pairs=3 if task is not Task.TEXT and Objective.VLM in objectives else 0,
        instructions=instructions if Objective.LM in objectives else 0,
        text_length=data.document_length if task is Task.TEXT else data.text_length,
        target_length=data.target_length,
        patches=0 if task is Task.TEXT else (resolution // config.model.vision.patch) ** 2,
    )


def stream_shape(stream: Stream, shape: BatchShape, model: ModelConfig, sequence: SequenceShards) -> tuple[int, int, int]:
    """This rank's shape of a stream [s (local), rows, width]."""
    hidden = model.text.hidden
    match stream:
        case Stream.FRAMES:
            return sequence.local(shape.frame_tokens), shape.samples * shape.frames, model.vision.width
        case Stream.VISUAL:
            return sequence.local(shape.visual_length), shape.samples, hidden
        case Stream.TEXT:
            return sequence.local(shape.text_length), shape.text_rows, hidden
        case Stream.QUERIES:
            return sequence.local(model.text.queries), shape.samples, hidden
        case Stream.FUSED:
            return sequence.local(shape.text_length), shape.fused_rows, hidden
        case Stream.PROMPT:
            return sequence.local(shape.text_length), shape.decoder_rows, hidden
        case Stream.DECODER:
            return sequence.local(shape.target_length), shape.decoder_rows, hidden
