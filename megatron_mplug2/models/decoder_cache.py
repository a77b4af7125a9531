"""What the decoder keeps between tokens: keys and values of its memory, and of the tokens so far. A step then computes one token alone.

Tensor-parallel ranks each keep their own heads. Under sequence parallelism a step's one token is padded to one for each rank.
"""

from dataclasses import dataclass

import torch
from megatron.core.transformer.attention import CrossAttention, SelfAttention
from torch.nn import functional as F

from megatron_mplug2.models.linear import Output


@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Of one attention: [b, heads of this rank, length, head width] each."""

    keys: torch.Tensor
    values: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "KeyValues":
        """Those at `rows` [n] int64, in that order."""
        return KeyValues(keys=self.keys.index_select(0, rows), values=self.values.index_select(0, rows))

    def followed_by(self, other: "KeyValues") -> "KeyValues":
        return KeyValues(keys=torch.cat([self.keys, other.keys], dim=2), values=torch.cat([self.values, other.values], dim=2))


@dataclass(kw_only=True)
class LayerCache:
    """Of one decoder layer. `past` grows with each step."""

    memory: KeyValues
    """A row for each sample, however many sequences attend to it."""
    memory_keys: torch.Tensor
    """[samples, m] bool, True where a key may be attended to."""
    past: KeyValues | None = None
    """A row for each sequence, those of a sample next to each other."""

    def reorder(self, parents: torch.Tensor) -> None:
        """Row i goes on from what was row `parents[i]`."""
        if self.past is not None:
            self.past = self.past.rows(parents)


@dataclass(kw_only=True)
class DecoderCache:
    layers: list[LayerCache]
    length: int = 0
    """Tokens of each sequence so far."""

    def reorder(self, parents: torch.Tensor) -> None:
        """Sequence i goes on from what was sequence `parents[i]`; of the same sample."""
        for layer in self.layers:
            layer.reorder(parents)


def memory_key_values(attention: CrossAttention, memory: torch.Tensor) -> KeyValues:
    """The projections of a memory [m (this rank's shard), samples, h]."""
    mixed, _ = attention.linear_kv(memory)
    heads = mixed.unflatten(-1, (attention.num_attention_heads_per_partition, -1)).permute(1, 2, 0, 3)
    keys, values = heads.chunk(2, dim=-1)
    return KeyValues(keys=keys.contiguous(), values=values.contiguous())  # read once a step: not with the other between


def attend_past(attention: SelfAttention, x: torch.Tensor, cache: LayerCache) -> Output:
    """Self-attention of the next token [1 (this rank's shard), rows, h] to itself and those before it -> the same, and the bias to add."""
    query, key, value = (y.permute(1, 2, 0, 3) for y in attention.get_query_key_value_tensors(x))
    own = KeyValues(keys=key[:, :, :1], values=value[:, :, :1])  # the rest pads the sequence
    cache.past = cache.past.followed_by(own) if cache.past is not None else own
    out = F.scaled_dot_product_attention(query, cache.past.keys, cache.past.values)
    return attention.linear_proj(out.permute(2, 0, 1, 3).flatten(2))


def attend_memory(attention: CrossAttention, x: torch.Tensor, cache: LayerCache) -> Output:
    """Cross-attention of the next token of each sequence, likewise; the sequences of a sample are queries side by side."""
    mixed, _ = attention.linear_q(x)
    length, samples = mixed.shape[0], len(cache.memory_keys)
    query = mixed.unflatten(-1, (attention.num_attention_heads_per_partition, -1)).unflatten(1, (samples, -1))
    together = query.permute(1, 3, 2, 0, 4).flatten(2, 3)  # [samples, heads, sequences * length, head width]
    mask = cache.memory_keys[:, None, None]
    out = F.scaled_dot_product_attention(together, cache.memory.keys, cache.memory.values, attn_mask=mask)
    return attention.linear_proj(out.unflatten(2, (-1, length)).permute(3, 0, 2, 1, 4).flatten(3).flatten(1, 2))
