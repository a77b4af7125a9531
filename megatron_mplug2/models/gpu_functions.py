"""The Triton kernels as functions with gradients, on contiguous tensors of a GPU (or anywhere in Triton's interpreter, for tests)."""

from typing import Any

import torch
import triton

from megatron_mplug2.models import gpu_kernels as kernels

ELEMENTS = 4096
"""Of a program that goes element by element."""
PROGRAMS = 1024
"""That share the rows of a sum over all of them: about eight to each multiprocessor of an H100."""


class QuickGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        kernels.quick_gelu_forward[_pieces(x)](x, out, x.numel(), block=ELEMENTS, num_warps=8)
        return out

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> torch.Tensor:
        (x,), gradient = ctx.saved_tensors, incoming[0].contiguous()
        out = torch.empty_like(x)
        kernels.quick_gelu_backward[_pieces(x)](x, gradient, out, x.numel(), block=ELEMENTS, num_warps=8)
        return out


class TemporalConvolution(torch.autograd.Function):
    """[s, b, T, c], [c, 3], [c] -> [s, b, T, c], quick GELU included."""

    @staticmethod
    def forward(ctx: Any, clip: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(clip, taps, bias)
        frames, width = clip.shape[2:]
        out = torch.empty_like(clip)
        places = clip.shape[0] * clip.shape[1]
        kernels.temporal_forward[(places,)](clip, taps, bias, out, frames, width, block=_power(width), num_warps=4)
        return out

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (clip, taps, bias), gradient = ctx.saved_tensors, incoming[0].contiguous()
        frames, width = clip.shape[2:]
        places = clip.shape[0] * clip.shape[1]
        programs = min(places, PROGRAMS)
        grad_clip = torch.empty_like(clip)
        grad_taps, grad_bias = _sums(clip, programs, 3, width), _sums(clip, programs, width)
        kernels.temporal_backward[(programs,)](
            clip, taps, bias, gradient, grad_clip, grad_taps, grad_bias, places, frames, width, block=_power(width), num_warps=4
        )
        return grad_clip, grad_taps.sum(0).T.to(taps.dtype), grad_bias.sum(0).to(bias.dtype)


class AddNorm(torch.autograd.Function):
    """x + branch * shown, and its LayerNorm: [s, b, h] both. `branch` None: x itself; `shown` None: ones, else [s, 1, 1]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        branch: torch.Tensor | None,
        shown: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        columns, width = x.shape[1:]
        rows = x.shape[0] * columns
        total = x.view_as(x) if branch is None else torch.empty_like(x)
        out = torch.empty_like(x)
        mean, spread = _sums(x, rows), _sums(x, rows)
        kernels.add_norm_forward[(rows,)](
            x, branch, shown, weight, bias, total, out, mean, spread, columns, width, eps,
            adds=branch is not None, shows=shown is not None, block=_power(width), num_warps=_warps(width),
        )  # fmt: skip
        ctx.save_for_backward(total, mean, spread, weight, shown)
        ctx.adds = branch is not None
        ctx.set_materialize_grads(False)
        return total, out

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        total, mean, spread, weight, shown = ctx.saved_tensors
        grad_total, grad_out = incoming
        if grad_out is None:  # nobody used the norm
            grad_branch = grad_total if shown is None or grad_total is None else grad_total * shown
            return grad_total, grad_branch if ctx.adds else None, None, None, None, None
        columns, width = total.shape[1:]
        rows = mean.numel()
        programs = min(rows, PROGRAMS)
        grad_x = torch.empty_like(total)
        grad_branch = grad_x if shown is None else torch.empty_like(total)
        grad_weight, grad_bias = _sums(total, programs, width), _sums(total, programs, width)
        kernels.add_norm_backward[(programs,)](
            total, mean, spread, weight, shown, grad_out.contiguous(), None if grad_total is None else grad_total.contiguous(),
            grad_x, grad_branch, grad_weight, grad_bias, rows, columns, width,
            goes_on=grad_total is not None, shows=shown is not None, block=_power(width), num_warps=_warps(width),
        )  # fmt: skip
        return grad_x, grad_branch if ctx.adds else None, None, grad_weight.sum(0).to(weight.dtype), grad_bias.sum(0).to(weight.dtype), None


def select_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[s, b, heads, width], contiguous in its last axis, and [rows] -> [s, rows, heads, width]. Without a gradient of its own."""
    sequence, _, heads, width = x.shape
    out = x.new_empty(sequence, len(index), heads, width)
    kernels.select_rows[(sequence * len(index),)](
        x, index, out, x.stride(1), x.stride(0), x.stride(2), len(index), heads, width, block=_power(heads * width), num_warps=4
    )
    return out


def _pieces(x: torch.Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), ELEMENTS),)


def _sums(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _power(size: int) -> int:
    """A program's channels: Triton's blocks are powers of two."""
    return max(16, triton.next_power_of_2(size))


def _warps(width: int) -> int:
    """About eight channels a thread."""
    return min(8, max(1, _power(width) // 256))
