"""Attention: Megatron-Core's tensor-parallel attention modules around torch's `scaled_dot_product_attention`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.transformer.attention import CrossAttention, CrossAttentionSubmodules, SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn
from torch.nn import functional as F

from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.cpu_attention import DroppedAttention
from megatron_mplug2.models.kernels import select_rows
from megatron_mplug2.models.linear import ColumnParallelLinear, RowParallelLinear
from megatron_mplug2.parallel.dropout import KeyedDropout


@dataclass(frozen=True)
class QueryGroup:
    """Query rows next to each other, and the rows of the memory that they attend to."""

    rows: int
    memory_index: torch.Tensor | None
    """[rows] int64; None: their own, as many query rows for each row of the memory, those of one next to each other."""


@dataclass(frozen=True, kw_only=True)
class AttentionMask:
    """Which keys a query attends to, and whose keys they are.

    Megatron-Core hands it through to the core attention as it is.
    """

    keys: torch.Tensor | None = None
    """[b, sk] bool, True where a key may be attended to; None: all."""
    length: int | None = None
    """Keys past this length are padding of the whole batch and are cut off, which keeps flash attention usable; None: none is."""
    causal: bool = False
    memory_index: torch.Tensor | None = None
    """[b] int64, which batch row of the memory each query row attends to; None: its own. Projections are made once per memory row."""
    groups: tuple[QueryGroup, ...] = ()
    """In place of `memory_index`, where it is known which query rows attend to their own memory, and nothing but `length` hides keys.

    At least one group does; its keys and values are not gathered.
    """

    def for_queries(self, queries: int, device: torch.device) -> torch.Tensor | None:
        """The boolean mask for `scaled_dot_product_attention`, broadcastable to [b, heads, queries, sk]."""
        mask = self.keys[:, None, None, :] if self.keys is not None else None
        if self.causal:
            triangle = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()
            mask = triangle if mask is None else mask & triangle
        return mask


class FusedDotProductAttention(nn.Module):
    """Core attention: softmax(q k^T / sqrt(head width)) v, flash or memory-efficient where the device has it."""

    def __init__(self, *, dropout: float, keyed: KeyedDropout, **_: Any) -> None:
        super().__init__()
        self._dropout = dropout
        self._keyed = keyed

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: AttentionMask, **_: Any) -> torch.Tensor:
        """[sq, b, heads, width] x [sk, b', heads, width] -> [sq, b, heads * width]."""
        mask = attention_mask
        if mask.length is not None and mask.length < key.shape[0]:
            key, value = key[: mask.length], value[: mask.length]
        if mask.groups:
            return self._by_groups(query, key, value, mask)
        if mask.memory_index is not None:
            key, value = select_rows(key, mask.memory_index), select_rows(value, mask.memory_index)
        return self._attend(query, key, value, mask)

    def _by_groups(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        """As `forward`: all rows of one memory side by side are more queries of it, in one attention; rows of others are in another."""
        assert mask.keys is None and not mask.causal
        parts = query.split([group.rows for group in mask.groups], 1)
        own = [
            part.unflatten(1, (key.shape[1], -1)).transpose(1, 2)  # [sq, rows of one memory, b', heads, width]
            for part, group in zip(parts, mask.groups, strict=True)
            if group.memory_index is None
        ]
        beside = self._attend(torch.cat(own, 1).flatten(0, 1), key, value, mask).unflatten(0, (query.shape[0], -1))
        apart = iter(beside.split([part.shape[1] for part in own], 1))
        attended = [
            next(apart).transpose(1, 2).flatten(1, 2)
            if group.memory_index is None
            else self._attend(part, select_rows(key, group.memory_index), select_rows(value, group.memory_index), mask)
            for part, group in zip(parts, mask.groups, strict=True)
        ]
        return torch.cat(attended, 1)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        """As `forward`, where b' is b."""
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        allowed, probability = mask.for_queries(q.shape[2], q.device), 0.0
        if self._dropout > 0.0 and self._keyed.active:
            probability = self._dropout
            self._keyed.seed_draw(sharded=True)
        if probability and not q.is_cuda:
            out = DroppedAttention.apply(q, k, v, allowed, probability)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=probability)
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)


def mark_split(parameter: nn.Parameter, dim: int) -> None:
    """Declares that a parameter is split along `dim` over the tensor-parallel ranks.

    Megatron-Core sets this only on weights that it initialises itself.
    """
    parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    parameter.partition_dim = dim  # type: ignore[attr-defined]
    parameter.partition_stride = 1  # type: ignore[attr-defined]


def mark_linears(module: nn.Module) -> None:
    """Declares the splits of every column- and row-parallel weight inside a module."""
    for part in module.modules():
        if isinstance(part, ColumnParallelLinear) and part.weight is not None:
            mark_split(part.weight, 0)
        elif isinstance(part, RowParallelLinear):
            mark_split(part.weight, 1)


def self_attention(context: ModelContext, core: TransformerConfig, dropout: float) -> SelfAttention:
    """Fused, head-interleaved qkv (column parallel), core attention, output projection (row parallel)."""
    module = SelfAttention(
        config=core,
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=partial(FusedDotProductAttention, dropout=dropout, keyed=context.dropout),
            linear_proj=RowParallelLinear,
        ),
        layer_number=1,
        attn_mask_type=AttnMaskType.no_mask,
        pg_collection=context.topology.groups,
    )
    mark_linears(module)
    return module


def cross_attention(context: ModelContext, core: TransformerConfig, dropout: float) -> CrossAttention:
    """Queries from the stream, fused head-interleaved keys and values from a memory of the same width."""
    module = CrossAttention(
        config=core,
        submodules=CrossAttentionSubmodules(
            linear_q=ColumnParallelLinear,
            linear_kv=ColumnParallelLinear,
            core_attention=partial(FusedDotProductAttention, dropout=dropout, keyed=context.dropout),
            linear_proj=RowParallelLinear,
        ),
        layer_number=1,
        attn_mask_type=AttnMaskType.no_mask,
        pg_collection=context.topology.groups,
    )
    mark_linears(module)
    return module
