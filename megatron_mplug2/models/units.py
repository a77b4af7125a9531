"""The links of the mPLUG-2 chain, from pixels and tokens to losses."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from megatron_mplug2.config.model import Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.models.attention import AttentionMask
from megatron_mplug2.models.bert import BertEmbedding, BertLayer
from megatron_mplug2.models.chain import IDLE, Flow, Origin, Streams, Unit
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.kernels import select_rows
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.shapes import Stream
from megatron_mplug2.models.universal import UniversalLayer
from megatron_mplug2.models.vision import VisionBlock, VisionEmbedding, VisionOutput
from megatron_mplug2.objectives.result import Objective


@dataclass
class VisionEmbeddingUnit(Unit):
    name: str = "vision.embedding"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> VisionEmbedding:
        return VisionEmbedding(context)

    def flow(self, task: Task) -> Flow:
        return IDLE if task is Task.TEXT else Flow(writes=(Stream.FRAMES,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        return {Stream.FRAMES: module(micro.pair.media)}


@dataclass
class VisionBlockUnit(Unit):
    index: int
    temporal_on_images: bool

    def __post_init__(self) -> None:
        self.name = f"vision.blocks.{self.index}"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> VisionBlock:
        return VisionBlock(context, self.index)

    def flow(self, task: Task) -> Flow:
        return IDLE if task is Task.TEXT else Flow(reads=(Stream.FRAMES,), writes=(Stream.FRAMES,))

    def modules(self, task: Task) -> frozenset[Module]:
        return frozenset((Module.VISION, Module.TEMPORAL) if self._temporal(task) else (Module.VISION,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        temporal = self._temporal(micro.task)
        x = module(streams[Stream.FRAMES], micro.shape.frames, micro.shape.frame_tokens, temporal=temporal)
        return {Stream.FRAMES: x}

    def _temporal(self, task: Task) -> bool:
        return task is Task.VIDEO_TEXT or self.temporal_on_images


@dataclass
class VisionOutputUnit(Unit):
    name: str = "vision.output"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> VisionOutput:
        return VisionOutput(context)

    def flow(self, task: Task) -> Flow:
        return IDLE if task is Task.TEXT else Flow(reads=(Stream.FRAMES,), writes=(Stream.VISUAL,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        return {Stream.VISUAL: module(streams[Stream.FRAMES], micro.shape.frames, micro.shape.frame_tokens)}


@dataclass
class TextEmbeddingUnit(Unit):
    name: str = "text.embedding"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> BertEmbedding:
        return BertEmbedding(context)

    def flow(self, task: Task) -> Flow:
        return Flow(writes=(Stream.TEXT,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        return {Stream.TEXT: module(micro.text_tokens)}


@dataclass
class TextLayerUnit(Unit):
    index: int

    def __post_init__(self) -> None:
        self.name = f"text.layers.{self.index}"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> BertLayer:
        return BertLayer(context, cross=False)

    def flow(self, task: Task) -> Flow:
        return Flow(reads=(Stream.TEXT,), writes=(Stream.TEXT,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        return {Stream.TEXT: module(streams[Stream.TEXT], micro.text_mask)}


@dataclass
class UniversalUnit(Unit):
    """Both uses of one universal layer lie in one unit, since they share its weights."""

    index: int
    first: bool
    last: bool

    def __post_init__(self) -> None:
        self.name = f"universal.layers.{self.index}"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> UniversalLayer:
        return UniversalLayer(context, self.index)

    def flow(self, task: Task) -> Flow:
        if task is Task.TEXT:
            return Flow(reads=(Stream.TEXT,), writes=(Stream.TEXT,))
        reads = (Stream.TEXT, Stream.VISUAL) if self.first else (Stream.TEXT, Stream.VISUAL, Stream.QUERIES)
        return Flow(reads=reads, writes=(Stream.TEXT, Stream.VISUAL if self.last else Stream.QUERIES))

    def origin(self, written: Stream, task: Task) -> Origin:
        """The two uses share weights and nothing else."""
        reads = self.flow(task).reads
        return Origin(tuple(stream for stream in reads if (stream is Stream.TEXT) == (written is Stream.TEXT)), self.modules(task))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        assert isinstance(module, UniversalLayer)
        text = streams[Stream.TEXT]
        if micro.task is Task.TEXT:
            return {Stream.TEXT: module.text(text, micro.text_mask)}
        visual, queries = streams[Stream.VISUAL], streams.get(Stream.QUERIES)
        text, out = module(text, micro.text_mask, visual, queries, micro.shape.visual_length)
        return {Stream.TEXT: text, Stream.VISUAL if self.last else Stream.QUERIES: out}


@dataclass
class FusionUnit(Unit):
    """The first one pairs texts with pictures; only unpermuted tokens travel between stages."""

    index: int
    objectives: frozenset[Objective]

    def __post_init__(self) -> None:
        self.name = f"fusion.layers.{self.index}"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> BertLayer:
        return BertLayer(context, cross=True)

    def flow(self, task: Task) -> Flow:
        if task is Task.TEXT or self.objectives.isdisjoint((Objective.VLM, Objective.LM)):
            return IDLE
        return Flow(reads=(Stream.FUSED if self.index else Stream.TEXT, Stream.VISUAL), writes=(Stream.FUSED,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        fused = streams[Stream.FUSED] if self.index else select_rows(streams[Stream.TEXT].unsqueeze(2), micro.fused_texts).squeeze(2)
        out = module(fused, micro.fused_mask, streams[Stream.VISUAL], micro.visual_mask)
        return {Stream.FUSED: out}


@dataclass
class DecoderEmbeddingUnit(Unit):
    objectives: frozenset[Objective]
    name: str = "decoder.embedding"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> BertEmbedding:
        return BertEmbedding(context)

    def flow(self, task: Task) -> Flow:
        return Flow(writes=(Stream.DECODER,)) if Objective.LM in self.objectives else IDLE

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        return {Stream.DECODER: module(micro.targets)}


def decoder_memory(streams: Streams, micro: Microbatch) -> torch.Tensor:
    """[visual tokens; prompt] on the sequence axis (released VQA), or the prompt alone (text)."""
    prompt = streams[Stream.PROMPT]
    if micro.task is Task.TEXT:
        return prompt
    visual = streams[Stream.VISUAL]
    if micro.instructions > 1:
        visual = visual.repeat_interleave(micro.instructions, dim=1)
    return torch.cat([visual, prompt])


@dataclass
class DecoderLayerUnit(Unit):
    index: int
    objectives: frozenset[Objective]

    def __post_init__(self) -> None:
        self.name = f"decoder.layers.{self.index}"

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> BertLayer:
        return BertLayer(context, cross=True)

    def flow(self, task: Task) -> Flow:
        if Objective.LM not in self.objectives:
            return IDLE
        memory = (Stream.PROMPT,) if task is Task.TEXT else (Stream.PROMPT, Stream.VISUAL)
        return Flow(reads=(Stream.DECODER, *memory), writes=(Stream.DECODER,))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        memory_mask: AttentionMask = micro.memory_mask
        x = module(streams[Stream.DECODER], micro.target_mask, decoder_memory(streams, micro), memory_mask)
        return {Stream.DECODER: x}
