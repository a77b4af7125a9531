"""Layers of mPLUG-2's BERT-shaped parts, batch first: post-LN, with cross-attention where there is a memory."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_mplug2 import MPlug2Config

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Both [b, heads, length, head width]."""


@dataclass
class LayerCache:
    """What a decoder layer keeps from token to token."""

    own: KeysValues | None = None
    """Of the tokens so far; a row for each beam."""
    memory: KeysValues | None = None
    """Of the memory, made once; a row for each sample, whatever the number of beams."""


class SelfAttention(nn.Module):
    """One fused projection, whose rows are q, k and v of head 0, then those of head 1, and so on."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.linear_qkv = nn.Linear(width, 3 * width)
        self.linear_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, cache: LayerCache | None = None) -> torch.Tensor:
        """[b, s, width] -> same. `mask` broadcasts to [b, heads, s, keys], True where a key may be attended to."""
        q, k, v = self.linear_qkv(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        if cache is not None:
            if cache.own is not None:
                k, v = torch.cat([cache.own[0], k], dim=2), torch.cat([cache.own[1], v], dim=2)
            cache.own = (k, v)
        return self.linear_proj(attend(q, k, v, mask, self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Queries from the stream; keys and values from a memory by one fused projection, by head as above."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.linear_q = nn.Linear(width, width)
        self.linear_kv = nn.Linear(width, 2 * width)
        self.linear_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None, cache: LayerCache | None = None) -> torch.Tensor:
        """[b, s, width] -> same. With [b / n, m, width] of memory, n rows after one another share one of it. `mask`: [b / n, 1, 1, m]."""
        kept = cache.memory if cache is not None else None
        k, v = kept if kept is not None else self.linear_kv(memory).unflatten(-1, (self.heads, 2, -1)).permute(3, 0, 2, 1, 4)
        if cache is not None:
            cache.memory = (k, v)
        # Queries don't see each other, so rows that share a memory are one longer row of queries.
        q = self.linear_q(x).reshape(k.shape[0], -1, x.shape[-1]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.linear_proj(out.reshape(x.shape))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, dropout: float) -> torch.Tensor:
    """[b, heads, s, w] x [b, heads, m, w] -> [b, s, heads * w]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    def __init__(self, width: int, ffn: int, *, quick: bool = False) -> None:
        super().__init__()
        self.activation = quick_gelu if quick else F.gelu
        self.linear_fc1 = nn.Linear(width, ffn)
        self.linear_fc2 = nn.Linear(ffn, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_fc2(self.activation(self.linear_fc1(x)))


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's."""
    return x * torch.sigmoid(1.702 * x)


class BertLayer(nn.Module):
    """Self-attention, add & norm; cross-attention, add & norm where there is a memory; FFN, add & norm."""

    def __init__(self, config: MPlug2Config, *, cross: bool) -> None:
        super().__init__()
        hidden, heads, dropout = config.text_hidden, config.text_heads, config.text_attention_dropout
        self.dropout = nn.Dropout(config.text_dropout)
        self.self_attention = SelfAttention(hidden, heads, dropout)
        self.self_attention_norm = nn.LayerNorm(hidden, eps=config.text_layer_norm_eps)
        if cross:
            self.cross_attention = CrossAttention(hidden, heads, dropout)
            self.cross_attention_norm = nn.LayerNorm(hidden, eps=config.text_layer_norm_eps)
        self.mlp = FeedForward(hidden, config.text_ffn)
        self.mlp_norm = nn.LayerNorm(hidden, eps=config.text_layer_norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        """[b, s, h] -> same; without a memory [b or fewer, m, h] the cross-attention is skipped."""
        x = self.self_attention_norm(x + self.dropout(self.self_attention(x, mask, cache)))
        if memory is not None:
            x = self.cross_attention_norm(x + self.dropout(self.cross_attention(x, memory, memory_mask, cache)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class BertEmbedding(nn.Module):
    """Word + position + token type 0, LayerNorm."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.word = nn.Embedding(config.text_vocab_size, config.text_hidden)
        self.position = nn.Parameter(torch.empty(config.text_positions, config.text_hidden))
        self.token_type = nn.Parameter(torch.empty(config.text_token_types, config.text_hidden))
        self.norm = nn.LayerNorm(config.text_hidden, eps=config.text_layer_norm_eps)
        self.dropout = nn.Dropout(config.text_dropout)

    def forward(self, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
        """[b, s] ids at the positions from `first` on -> [b, s, h]."""
        position = self.position[first : first + ids.shape[1]]
        return self.dropout(self.norm(self.word(ids) + (position + self.token_type[0])))


class LanguageModelHead(nn.Module):
    """Dense, GELU, LayerNorm, and a projection by the word embeddings, with a bias of its own."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.text_hidden, config.text_hidden)
        self.norm = nn.LayerNorm(config.text_hidden, eps=config.text_layer_norm_eps)
        self.bias = nn.Parameter(torch.empty(config.text_vocab_size))

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """[..., h] and word embeddings [vocabulary, h] -> logits [..., vocabulary]."""
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)
