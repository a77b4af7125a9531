"""The BERT-shaped layer of the text encoder, universal layers, fusion and decoder: post-LN, with an optional cross-attention.

Megatron-Core's own layer is pre-LN; this one composes its attention and MLP as released mPLUG-2 does:
self-attention, add & norm, cross-attention, add & norm, FFN, add & norm.
"""

import torch
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn

from megatron_mplug2.config.checks import padded_vocab
from megatron_mplug2.models.attention import AttentionMask, cross_attention, mark_linears, mark_split, self_attention
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.decoder_cache import LayerCache, attend_memory, attend_past
from megatron_mplug2.models.linear import FEED_FORWARD, Output, with_bias
from megatron_mplug2.models.norm import layer_norm
from megatron_mplug2.models.word_embedding import WordEmbedding


def feed_forward(context: ModelContext, core: TransformerConfig) -> MLP:
    """Column-parallel up, activation, row-parallel down."""
    module = MLP(
        core,
        FEED_FORWARD,
        ffn_hidden_size=core.ffn_hidden_size,
        tp_group=context.topology.tensor_group,
    )
    mark_linears(module)
    return module


class BertLayer(nn.Module):
    """One post-LN layer on [s, b, h]; with `cross` it can attend to a memory [m, b', h] of the same width."""

    def __init__(self, context: ModelContext, *, cross: bool) -> None:
        super().__init__()
        text, topology = context.config.text, context.topology
        self._dropout, self._keyed = text.dropout, context.dropout
        self.self_attention = self_attention(context, context.text, text.attention_dropout)
        self.self_attention_norm = layer_norm(text.hidden, text.layer_norm_eps, topology)
        if cross:
            self.cross_attention = cross_attention(context, context.text, text.attention_dropout)
            self.cross_attention_norm = layer_norm(text.hidden, text.layer_norm_eps, topology)
        self.mlp = feed_forward(context, context.text)
        self.mlp_norm = layer_norm(text.hidden, text.layer_norm_eps, topology)

    def forward(
        self,
        x: torch.Tensor,
        mask: AttentionMask,
        memory: torch.Tensor | None = None,
        memory_mask: AttentionMask | None = None,
    ) -> torch.Tensor:
        """[s, b, h] -> [s, b, h]; without a memory the cross-attention is skipped (text in a universal layer)."""
        x = self._add_norm(x, self.self_attention(x, mask), self.self_attention_norm)
        if memory is not None:
            attended = self.cross_attention(x, memory_mask or AttentionMask(), key_value_states=memory)
            x = self._add_norm(x, attended, self.cross_attention_norm)
        return self._add_norm(x, self.mlp(x), self.mlp_norm)

    def next_token(self, x: torch.Tensor, cache: LayerCache) -> torch.Tensor:
        """The next token of each sequence, [1 (this rank's shard), rows, h] -> the same; a causal `forward` of the whole gives it too."""
        x = self._add_norm(x, attend_past(self.self_attention, x, cache), self.self_attention_norm)
        x = self._add_norm(x, attend_memory(self.cross_attention, x, cache), self.cross_attention_norm)
        return self._add_norm(x, self.mlp(x), self.mlp_norm)

    def _add_norm(self, x: torch.Tensor, branch: Output, norm: nn.LayerNorm) -> torch.Tensor:
        return norm(x + self._keyed.hidden(with_bias(branch), self._dropout))


class BertEmbedding(nn.Module):
    """Word + position + token type 0, LayerNorm, dropout."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        text = context.config.text
        self._dropout, self._keyed, self._sequence = text.dropout, context.dropout, context.sequence
        self.word = WordEmbedding(
            padded_vocab(text.vocab_size),
            text.hidden,
            init_method=nn.init.zeros_,
            config=context.text,
            tp_group=context.topology.tensor_group,
        )
        mark_vocabulary(self.word.weight, text.vocab_size)
        self.position = nn.Parameter(torch.empty(text.positions, text.hidden))
        self.token_type = nn.Parameter(torch.empty(text.token_types, text.hidden))
        # Made before the sequence is split: each rank has the whole gradient of norm, positions and token types.
        self.norm = nn.LayerNorm(text.hidden, eps=text.layer_norm_eps)

    def forward(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        """[b, L] int64, the first at position `start` -> [L (local), b, h]."""
        words = self.word(tokens).transpose(0, 1)
        x = self.norm(words + (self.position[start : start + tokens.shape[1]] + self.token_type[0])[:, None])
        return self._keyed.hidden(self._sequence.scatter(x.contiguous()), self._dropout)


def mark_vocabulary(parameter: nn.Parameter, vocab_size: int) -> None:
    """Declares a parameter whose rows are the padded vocabulary, split over tensor-parallel ranks."""
    mark_split(parameter, 0)
    parameter.canonical_rows = vocab_size  # type: ignore[attr-defined]
