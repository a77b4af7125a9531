"""The links that end in a loss: MLM, contrast (VLC), matching (VLM), instruction LM."""

from collections.abc import Mapping

import torch
from torch import nn

from megatron_mplug2.config.model import ModelConfig, Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import IGNORED
from megatron_mplug2.models.chain import IDLE, Flow, Origin, Streams, Unit
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.heads import ContrastiveHead, LanguageModelHead, MatchingHead
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.shapes import Stream
from megatron_mplug2.objectives import contrastive, instruction_lm, masked_lm, matching
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.objectives.weighted import contrasts

TEXT_EMBEDDING, DECODER_EMBEDDING = "text.embedding", "decoder.embedding"


def _tied_head(context: ModelContext, built: Mapping[str, nn.Module], embedding: str) -> LanguageModelHead:
    return LanguageModelHead(context, built[embedding].word.weight if embedding in built else None)  # type: ignore[union-attr, arg-type]


class MaskedLMUnit(Unit):
    """MLM on the masked documents; the prefixes go on to the decoder."""

    name = "heads.mlm"

    def __init__(self, config: ModelConfig, objectives: frozenset[Objective]) -> None:
        self._vocab_size, self._objectives = config.text.vocab_size, objectives

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> LanguageModelHead:
        return _tied_head(context, built, TEXT_EMBEDDING)

    def flow(self, task: Task) -> Flow:
        if task is not Task.TEXT:
            return IDLE
        return Flow(reads=(Stream.TEXT,), writes=(Stream.PROMPT,) if Objective.LM in self._objectives else ())

    def modules(self, task: Task) -> frozenset[Module]:
        """The words are the text embedding's."""
        return frozenset((Module.HEADS, Module.TEXT))

    def origin(self, written: Stream, task: Task) -> Origin:
        """What it writes is a part of what it reads."""
        return Origin((Stream.TEXT,), frozenset())

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        text = streams[Stream.TEXT]
        if micro.shape.texts:
            self._ask(module, text[:, : micro.first_texts], micro)
        # Contiguous: every layer of the decoder multiplies it, and each would make and keep a copy of its own.
        return {Stream.PROMPT: text[:, micro.first_texts :].contiguous()} if micro.instructions else {}

    def _ask(self, module: nn.Module, text: torch.Tensor, micro: Microbatch) -> None:
        labels = micro.text.labels.T.flatten()
        positions = (labels != IGNORED).nonzero()[:, 0]  # the host waits for their number
        if not len(positions):
            # One row, whose label is IGNORED: an empty draw stays in the graph and in the collectives.
            positions = positions.new_zeros(1)
        logits = module(text, micro.shape.text_length, positions)
        loss = masked_lm.masked_lm_loss(logits, labels[positions][None], self._vocab_size, micro.sequence.topology.tensor_group)
        micro.add_loss(Objective.MLM, micro.objectives.mlm.weight, loss)


class ContrastUnit(Unit):
    """VLC: features of both modalities, and the gradient that the whole global batch gives them. VLM's negatives are drawn by them."""

    name = "heads.contrast"

    def __init__(self, objectives: frozenset[Objective]) -> None:
        self._objectives = objectives

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> ContrastiveHead:
        return ContrastiveHead(context)

    def flow(self, task: Task) -> Flow:
        return Flow(reads=(Stream.VISUAL, Stream.TEXT)) if contrasts(self._objectives, task) else IDLE

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        assert isinstance(module, ContrastiveHead)
        vision_class = micro.sequence.first_token(streams[Stream.VISUAL])
        text_class = micro.sequence.first_token(streams[Stream.TEXT][:, : micro.first_texts])
        vision, text = module(vision_class, text_class)
        micro.features = (vision, text)
        if micro.features_only:
            return {}
        if micro.contrast is None:
            assert micro.solver is not None
            micro.contrast = micro.solver(vision.detach(), text.detach(), module.log_temperature.detach())
        else:
            limit = _ROUNDING[vision_class.dtype]
            first = micro.contrast.vision_features, micro.contrast.text_features
            micro.features_differ = _differ(vision, first[0], limit) | _differ(text, first[1], limit)
        share = micro.contrast
        assert share.vision_grad is not None and share.text_grad is not None and share.log_temperature_grad is not None
        assert share.loss is not None
        surrogate = contrastive.surrogate(
            vision, text, module.log_temperature, share.vision_grad, share.text_grad, share.log_temperature_grad
        )
        micro.losses.append(micro.objectives.vlc.weight * surrogate)
        micro.values[Objective.VLC] = share.loss
        return {}


_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""By the type of activations: distance that a feature, of length 1, may have from itself where both passes compute the same. A pass without
gradients may get other kernels for it: with torch's two attention kernels features of 12 blocks are at most 2e-6 and 0.02 apart, with two
masks of dropout at 0.1 at least 0.26."""


def _differ(features: torch.Tensor, first: torch.Tensor | None, limit: float) -> torch.Tensor:
    """Scalar bool, on the device: nobody waits for it. False of NaN, which compares with nothing: the guard of updates is to find it."""
    assert first is not None
    return (torch.linalg.vector_norm(features - first, dim=-1) > limit).any()


class MatchingUnit(Unit):
    """VLM on the fused pairs; the fused instructions go on to the decoder."""

    name = "heads.matching"

    def __init__(self, objectives: frozenset[Objective]) -> None:
        self._objectives = objectives

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> MatchingHead:
        return MatchingHead(context)

    def flow(self, task: Task) -> Flow:
        if task is Task.TEXT or self._objectives.isdisjoint((Objective.VLM, Objective.LM)):
            return IDLE
        return Flow(reads=(Stream.FUSED,), writes=(Stream.PROMPT,) if Objective.LM in self._objectives else ())

    def origin(self, written: Stream, task: Task) -> Origin:
        """What it writes is a part of what it reads."""
        return Origin((Stream.FUSED,), frozenset())

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        fused = streams[Stream.FUSED]
        if micro.first_pairs:
            assert micro.contrast is not None
            logits = module(micro.sequence.first_token(fused[:, : micro.first_pairs]))
            loss = matching.matching_loss(logits, micro.contrast.image_for_text >= 0)
            micro.add_loss(Objective.VLM, micro.objectives.vlm.weight, loss)
        return {Stream.PROMPT: fused[:, micro.first_pairs :]} if micro.instructions else {}


class InstructionLMUnit(Unit):
    """The shared decoder's answers to instructions, or its continuation of text."""

    name = "heads.lm"

    def __init__(self, config: ModelConfig, objectives: frozenset[Objective]) -> None:
        self._vocab_size, self._objectives = config.text.vocab_size, objectives

    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> LanguageModelHead:
        return _tied_head(context, built, DECODER_EMBEDDING)

    def flow(self, task: Task) -> Flow:
        return Flow(reads=(Stream.DECODER,)) if Objective.LM in self._objectives else IDLE

    def modules(self, task: Task) -> frozenset[Module]:
        """The words are the decoder embedding's."""
        return frozenset((Module.HEADS, Module.DECODER))

    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        logits = module(streams[Stream.DECODER], micro.shape.target_length)
        lm, group = micro.objectives.lm, micro.sequence.topology.tensor_group
        loss = instruction_lm.instruction_lm_loss(
            logits,
            micro.targets,
            lm.averaging,
            self._vocab_size,
            group,
            lm.label_smoothing,
            shares=micro.shares,
            advantages=micro.advantages,
        )
        micro.add_loss(Objective.LM, lm.weight, loss)
        return {}
