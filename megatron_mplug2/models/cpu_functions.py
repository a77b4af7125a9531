"""Autograd functions for a CPU: products by oneDNN, and quick GELU in few passes.

Torch gives products in fp32 to MKL, whose kernels reach half of what an AMD processor with AVX-512 can do. oneDNN's, which torch has beside
it and uses for half precision, reach nearly all of it (`python -m benchmarks.ceiling` shows both rates).
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

QUICK = 1.702
"""CLIP's approximation of GELU [released code]."""
MANY = 256
"""Rows from which a weight's gradient is quicker as a linear layer's than as a product, which wants `gradient.t()` copied (768 and 3,072
channels, one thread and two: a fifth quicker at 1,576 rows, a fifth slower at 40)."""


class Linear(torch.autograd.Function):
    """[..., in], [out, in] and [out] or None, fp32 -> [..., out], as `torch.nn.functional.linear`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, gradient = x.flatten(0, -2), incoming[0].flatten(0, -2).contiguous()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.t()).view_as(x) if for_x else None,
            _weight_gradient(rows, gradient, weight) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


def _weight_gradient(rows: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if len(rows) < MANY:
        return product(gradient.t(), rows.t())
    of_weight, _ = torch.ops.aten.mkldnn_linear_backward_weights(gradient.to_mkldnn(), rows.to_mkldnn(), weight, False)
    found: torch.Tensor = of_weight
    return found


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """OneDNN's, of [..., in] and [out, in]: what torch's compiler makes of a linear layer on a CPU; it has no other name in Python."""
    made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


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
