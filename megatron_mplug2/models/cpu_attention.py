"""Attention with dropout on a CPU, a few heads at a time.

Torch has no fused attention with dropout there: scores, probabilities, mask and their product are made for all heads at once, each of them
larger than the processor's cache.
"""

from collections.abc import Iterator
from math import ceil, sqrt
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from megatron_mplug2.parallel.dropout import draw_kept

IN_CACHE = 1 << 20
"""Scores at a time, 4 MB in fp32: more no longer stay in a cache of 32 MB, fewer are as quick (2^16 to 2^22 measured)."""


class DroppedAttention(torch.autograd.Function):
    """dropout(softmax(q k^T / sqrt(head width))) v, with draws of the CPU's generator."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, probability: float
    ) -> torch.Tensor:
        """[b, heads, sq, width] x [b, heads, sk, width] twice -> [b, heads, sq, width].

        `mask`, broadcastable to [b, heads, sq, sk], is True where a key may be attended to; a query without any key gets zeros.
        """
        scaled, key, value = query.contiguous() / sqrt(query.shape[-1]), key.contiguous(), value.contiguous()
        size = (*query.shape[:-1], key.shape[2])
        shares, kept, out = query.new_empty(size), query.new_empty(size, dtype=torch.bool), query.new_empty(query.shape)
        hidden = None if mask is None else mask.logical_not().expand(size)
        grown = 1.0
        for part in _parts(size):
            scores = scaled[part] @ key[part].mT
            if hidden is not None:
                scores.masked_fill_(hidden[part], -torch.inf)
            torch.softmax(scores, -1, out=shares[part])
            if hidden is not None:
                shares[part].masked_fill_(hidden[part], 0.0)
            kept[part], grown = draw_kept(scores.shape, probability)
            out[part] = (shares[part] * kept[part]).mul_(grown) @ value[part]
        ctx.save_for_backward(scaled, key, value, shares, kept)
        ctx.grown = grown
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled, key, value, shares, kept = ctx.saved_tensors
        gradient = incoming[0].contiguous()
        for_query, for_key, for_value = (torch.empty_like(x) for x in (scaled, key, value))
        for part in _parts(shares.shape):
            passed = kept[part].to(shares.dtype).mul_(ctx.grown)
            for_value[part] = (shares[part] * passed).mT @ gradient[part]
            for_shares = (gradient[part] @ value[part].mT).mul_(passed)
            for_scores = torch.ops.aten._softmax_backward_data(for_shares, shares[part], -1, shares.dtype)
            for_query[part] = for_scores @ key[part]
            for_key[part] = for_scores.mT @ scaled[part]
        return for_query.div_(sqrt(scaled.shape[-1])), for_key, for_value, None, None


def _parts(size: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Samples and heads whose scores fit the cache: all, or some heads of one sample at a time."""
    samples, heads, queries, keys = size
    if samples * heads * queries * keys <= IN_CACHE:
        yield slice(samples), slice(heads)
        return
    step = ceil(heads / ceil(heads * queries * keys / IN_CACHE))
    for sample in range(samples):
        for head in range(0, heads, step):
            yield slice(sample, sample + 1), slice(head, head + step)
