"""The modules of training, run for their outputs: features, fused pairs, match probabilities, the decoder's next token."""

from dataclasses import dataclass
from typing import cast

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.models.attention import AttentionMask
from megatron_mplug2.models.bert import BertLayer
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.decoder_cache import DecoderCache, LayerCache, memory_key_values
from megatron_mplug2.models.head_units import ContrastUnit, InstructionLMUnit, MatchingUnit
from megatron_mplug2.models.heads import ContrastiveHead
from megatron_mplug2.models.microbatch import key_mask
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.units import DecoderEmbeddingUnit, TextEmbeddingUnit, VisionEmbeddingUnit, VisionOutputUnit
from megatron_mplug2.models.universal import UniversalLayer
from megatron_mplug2.models.vision import VisionBlock
from megatron_mplug2.parallel.gather import gather_rows


@dataclass(frozen=True, kw_only=True)
class EncodedMedia:
    """Pictures or clips after the universal layers."""

    tokens: torch.Tensor
    """[length (this rank's shard), b, h]."""
    length: int
    """Visual tokens of a picture or clip, without sequence-parallel padding."""

    def rows(self, rows: torch.Tensor) -> "EncodedMedia":
        """The pictures or clips at `rows` [n] int64, in that order."""
        return EncodedMedia(tokens=self.tokens.index_select(1, rows), length=self.length)


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """Texts after the universal layers, or after fusion with a picture or clip."""

    tokens: torch.Tensor
    """[L (this rank's shard), b, h]."""
    keys: torch.Tensor
    """[b, padded L] bool, True where a token may be attended to."""

    def rows(self, rows: torch.Tensor) -> "EncodedText":
        """The texts at `rows` [n] int64, in that order."""
        return EncodedText(tokens=self.tokens.index_select(1, rows), keys=self.keys.index_select(0, rows))


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the decoder attends to, a row for each answer that is asked: [visual tokens; fused instruction]."""

    tokens: torch.Tensor
    """[m (this rank's shard), b, h]."""
    keys: torch.Tensor
    """[b, padded m] bool."""

    @property
    def answers(self) -> int:
        return self.tokens.shape[1]


class Inference:
    """Runs a whole model (pipeline size 1) without gradients and without dropout; all tensor-parallel ranks call alike.

    Make one for each evaluation: it switches the dropout off, which the next training step switches on again.
    """

    def __init__(self, stage: Stage, context: ModelContext) -> None:
        if context.topology.pipeline_size > 1:
            raise ValueError("inference runs on one pipeline stage")
        context.dropout.stop()  # the only dropout there is: Stage.forward, not the training mode, switches it on
        self.context = context
        self._stage, self._config, self._sequence = stage, context.config, context.sequence

    @property
    def device(self) -> torch.device:
        return next(self._stage.parameters()).device

    @torch.no_grad()
    def encode_media(self, media: torch.Tensor, task: Task) -> EncodedMedia:
        """[b, 3, T, R, R] uint8 or normalised pixels -> visual tokens; pictures skip the temporal modules as they do in training."""
        vision, frames = self._config.vision, media.shape[2]
        patches = (media.shape[-1] // vision.patch) ** 2
        temporal = task is Task.VIDEO_TEXT or vision.temporal_on_images
        x = self._stage.block(VisionEmbeddingUnit.name)(media.to(self.device))
        for index in range(vision.blocks):
            block = cast(VisionBlock, self._stage.block(f"vision.blocks.{index}"))
            x = block(x, frames, 1 + patches, temporal=temporal)
        visual = self._stage.block(VisionOutputUnit.name)(x, frames, 1 + patches)
        length, queries = 1 + frames * patches, None
        *refining, last = self._universal_layers()
        for layer in refining:
            queries = layer.refine_queries(queries, visual, length)
        assert queries is not None
        return EncodedMedia(tokens=last.broadcast_queries(queries, visual, length), length=length)

    @torch.no_grad()
    def encode_text(self, tokens: torch.Tensor) -> EncodedText:
        """[b, L] int64 token ids, padded with 0 -> text tokens."""
        tokens = tokens.to(self.device)
        text, keys = self._config.text, key_mask(tokens, self._sequence)
        mask = AttentionMask(keys=keys)
        x = self._stage.block(TextEmbeddingUnit.name)(tokens)
        for index in range(text.layers - text.universal_layers):
            x = self._stage.block(f"text.layers.{index}")(x, mask)
        for layer in self._universal_layers():
            x = layer.text(x, mask)
        return EncodedText(tokens=x, keys=keys)

    @torch.no_grad()
    def vision_features(self, media: EncodedMedia) -> torch.Tensor:
        """[b, contrastive width] fp32, of length 1."""
        return self._contrast().vision_features(self._sequence.first_token(media.tokens))

    @torch.no_grad()
    def text_features(self, text: EncodedText) -> torch.Tensor:
        """[b, contrastive width] fp32, of length 1."""
        return self._contrast().text_features(self._sequence.first_token(text.tokens))

    @torch.no_grad()
    def temperature(self) -> torch.Tensor:
        """Scalar fp32, by which VLC divides similarities."""
        return self._contrast().log_temperature.exp()

    @torch.no_grad()
    def fuse(self, text: EncodedText, media: EncodedMedia, media_rows: torch.Tensor) -> EncodedText:
        """Text row i attends to the picture or clip `media_rows[i]`; `media_rows` [rows of text] int64."""
        x = text.tokens
        text_mask, media_mask = AttentionMask(keys=text.keys), AttentionMask(length=media.length, memory_index=media_rows)
        for index in range(self._config.fusion_layers):
            x = self._stage.block(f"fusion.layers.{index}")(x, text_mask, media.tokens, media_mask)
        return EncodedText(tokens=x, keys=text.keys)

    @torch.no_grad()
    def match_probability(self, fused: EncodedText) -> torch.Tensor:
        """[rows] fp32, the probability that a fused text tells of its picture or clip."""
        logits = self._stage.block(MatchingUnit.name)(self._sequence.first_token(fused.tokens))
        return logits.float().softmax(-1)[:, 1]

    @torch.no_grad()
    def memory(self, fused: EncodedText, media: EncodedMedia, media_rows: torch.Tensor) -> Memory:
        """The decoder's memory for each fused instruction and its picture or clip, as in training."""
        visual = self.visual_memory(media, media_rows)
        return Memory(tokens=torch.cat([visual.tokens, fused.tokens]), keys=self._sequence.interleave(visual.keys, fused.keys))

    @torch.no_grad()
    def visual_memory(self, media: EncodedMedia, media_rows: torch.Tensor) -> Memory:
        """That of the released captioning, which is asked nothing: pictures or clips alone."""
        visual = media.rows(media_rows).tokens
        positions = torch.arange(self._sequence.padded(media.length), device=visual.device)
        return Memory(tokens=visual, keys=(positions < media.length).expand(visual.shape[1], -1))

    @torch.no_grad()
    def next_logits(self, ids: torch.Tensor, memory: Memory) -> torch.Tensor:
        """[answers * k, t] ids that begin with [CLS], the k of an answer next to each other -> [answers * k, vocabulary] fp32.

        The same on all tensor-parallel ranks; without the rows that pad the vocabulary.
        """
        rows, length = ids.shape
        index = torch.arange(memory.answers, device=ids.device).repeat_interleave(rows // memory.answers)
        memory_mask = AttentionMask(keys=memory.keys.index_select(0, index), memory_index=index)
        x = self._stage.block(DecoderEmbeddingUnit.name)(ids)
        for layer in self._decoder_layers():
            x = layer(x, AttentionMask(causal=True), memory.tokens, memory_mask)
        last = torch.arange(rows, device=ids.device) + (length - 1) * rows
        return self._whole_vocabulary(self._stage.block(InstructionLMUnit.name)(x, length, last)[:, 0])

    @torch.no_grad()
    def start_decoding(self, memory: Memory) -> DecoderCache:
        """What `next_token_logits` goes on from: the memory's keys and values in every layer, and no token."""
        layers = self._decoder_layers()
        projected = (memory_key_values(layer.cross_attention, memory.tokens) for layer in layers)
        return DecoderCache(layers=[LayerCache(memory=own, memory_keys=memory.keys) for own in projected])

    @torch.no_grad()
    def next_token_logits(self, tokens: torch.Tensor, parents: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        """`next_logits`, a token at a time: `tokens` [answers * k] int64 are put to the sequences in `cache`.

        `parents` [answers * k] int64: which sequence of the step before each goes on from, of the same answer; at the first it does not
        count.
        """
        cache.reorder(parents)
        x = self._stage.block(DecoderEmbeddingUnit.name)(tokens[:, None], cache.length)
        for layer, kept in zip(self._decoder_layers(), cache.layers, strict=True):
            x = layer.next_token(x, kept)
        cache.length += 1
        return self._whole_vocabulary(self._stage.block(InstructionLMUnit.name)(x, 1)[0])

    def cache_bytes(self, memory_length: int) -> int:
        """Bytes that `start_decoding` keeps on this rank of an answer's memory of so many tokens."""
        text, weight = self._config.text, next(self._stage.parameters())
        share = text.hidden // self.context.topology.tensor_size
        return 2 * self._config.decoder_layers * memory_length * share * weight.element_size()

    def _whole_vocabulary(self, logits: torch.Tensor) -> torch.Tensor:
        """[n, padded vocabulary / tensor size] -> [n, vocabulary] fp32."""
        whole = gather_rows(logits.float().T, self.context.topology.tensor_group)
        return whole[: self._config.text.vocab_size].T

    def _decoder_layers(self) -> list[BertLayer]:
        return [cast(BertLayer, self._stage.block(f"decoder.layers.{index}")) for index in range(self._config.decoder_layers)]

    def _universal_layers(self) -> list[UniversalLayer]:
        names = [f"universal.layers.{index}" for index in range(self._config.text.universal_layers)]
        return [cast(UniversalLayer, self._stage.block(name)) for name in names]

    def _contrast(self) -> ContrastiveHead:
        return cast(ContrastiveHead, self._stage.block(ContrastUnit.name))
