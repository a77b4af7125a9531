"""How quickly one rank does matrix products and attention, by size."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.quickest import quickest
from megatron_mplug2.models.kernels import linear
from megatron_mplug2.parallel.device import device, on_gpu
from megatron_mplug2.planner.rates import Curve

ROWS, WIDTHS = 512, (32, 64, 128, 256, 512, 1024)
"""Of products [rows, width] x [width, 2 width]; on a GPU rows and widths are 8 times as many."""
LENGTHS, TOKENS, HEADS, CHANNELS = (8, 16, 32, 64, 128, 256), 2048, 4, 32
"""Of sequences: so many tokens together, and heads of so many channels."""

Curves = tuple[Curve, Curve]
"""Forward and backward."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """By one rank."""

    products: Curves
    """Of whole layers."""
    split_products: Curves
    """Of layers that tensor parallelism splits: Megatron-Core's, which take torch's product on every device."""
    attention: Curves


def measure_kernels() -> Kernels:
    """Of a rank alone, while others may do the same."""
    return Kernels(
        products=_curves([_product(width, linear) for width in WIDTHS]),
        split_products=_curves([_product(width, F.linear) for width in WIDTHS]),
        attention=_curves([_attention(length) for length in LENGTHS]),
    )


Timed = tuple[float, float, float]
"""Size, and the rates of operations forward and backward (two parts) that have it."""


def _product(width: int, layer: Callable[[torch.Tensor, torch.Tensor, None], torch.Tensor]) -> Timed:
    rows, width = (8 * ROWS, 8 * width) if on_gpu() else (ROWS, width)
    x, weight = _drawn(rows, width), _drawn(2 * width, width)
    flops = 2 * rows * width * 2 * width
    return _both_ways(flops, flops, lambda: layer(x, weight, None), (x, weight))


def _attention(length: int) -> Timed:
    batch = TOKENS // length * (8 if on_gpu() else 1)
    queries, keys, values = (_drawn(batch, HEADS, length, CHANNELS) for _ in range(3))
    one = 4 * length**2 * HEADS * CHANNELS
    return _both_ways(one, one * batch, lambda: F.scaled_dot_product_attention(queries, keys, values), (queries, keys, values))


def _drawn(*shape: int) -> torch.Tensor:
    dtype = torch.bfloat16 if on_gpu() else torch.float32
    return torch.randn(shape, device=device(), dtype=dtype, requires_grad=True)


def _both_ways(size: float, flops: float, work: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor]) -> Timed:
    out = work()
    grad = torch.ones_like(out)
    back = quickest(lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True))
    return size, flops / quickest(work), 2 * flops / back


def _curves(timed: Sequence[Timed]) -> Curves:
    return Curve(tuple((size, there) for size, there, _ in timed)), Curve(tuple((size, back) for size, _, back in timed))


def mean_kernels(found: Sequence[Kernels]) -> Kernels:
    """Of the ranks."""
    return Kernels(
        products=_mean([one.products for one in found]),
        split_products=_mean([one.split_products for one in found]),
        attention=_mean([one.attention for one in found]),
    )


def _mean(found: Sequence[Curves]) -> Curves:
    there, back = zip(*found, strict=True)
    return _mean_curve(there), _mean_curve(back)


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    points = zip(*(curve.points for curve in curves), strict=True)
    return Curve(tuple((same[0][0], statistics.mean(rate for _, rate in same)) for same in points))
