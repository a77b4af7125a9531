"""Autograd functions for a CPU: products by oneDNN, and quick GELU in few passes.

Torch gives products in fp32 to MKL, whose kernels reach half of what an AMD processor with AVX-512 can do. oneDNN's, which torch has beside
it and uses for half precision and convolutions, reach nearly all of it (`python -m benchmarks.ceiling` shows both rates).
"""

from typing import Any

import torch
from torch.nn import functional as F

QUICK = 1.702
"""CLIP's approximation of GELU [released code]."""
AS_CONVOLUTION_FROM = 1024
"""Rows."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[..., in], [out, in] and [out] or None, fp32 -> [..., out], as `torch.nn.functional.linear`."""
    if x.shape[:-1].numel() < AS_CONVOLUTION_FROM:
        few: torch.Tensor = _Linear.apply(x.contiguous(), weight, bias)
        return few
    # A 1x1 convolution over a line of pixels, channels last: for a weight's gradient oneDNN's product wants `gradient.t()` copied.
    line = x.flatten(0, -2)[None, None].permute(0, 3, 1, 2)
    return F.conv2d(line, weight[..., None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = incoming[0].flatten(0, -2).contiguous()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()).view_as(x) if for_x else None,
            _product(gradient.t(), x.flatten(0, -2).t()) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    # What torch's compiler makes of a linear layer on a CPU; it has no other name in Python.
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class QuickGelu(torch.autograd.Function):
    """x * sigmoid(1.702 x) as silu(1.702 x) / 1.702, whose derivative is one kernel of torch's and needs one tensor kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        scaled = QUICK * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).mul_(1 / QUICK)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> torch.Tensor:
        (scaled,) = ctx.saved_tensors
        gradient: torch.Tensor = torch.ops.aten.silu_backward(incoming[0], scaled)
        return gradient
