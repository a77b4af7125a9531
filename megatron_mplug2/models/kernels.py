"""Element-wise work in as few passes over memory as the device allows.

On a GPU with Triton and a C compiler torch compiles each function into one kernel for its forward and few for its backward pass; elsewhere
it is written out by hand for what autograd would otherwise keep and read again. The compiled functions draw no random numbers.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

QUICK = 1.702
"""CLIP's approximation of GELU [released code]."""


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's activation, x * sigmoid(1.702 x) [released code]."""
    if _compiles(x):
        return _compiled(_quick_gelu)(x)
    activated: torch.Tensor = _QuickGelu.apply(x)
    return activated


def temporal_convolution(clip: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A depthwise convolution of 3 taps over time with its quick GELU, zero-padded at a clip's ends.

    [s, b, T, c], [c, 3] (of the frame before, the frame, the frame after) and [c] -> [s, b, T, c].
    """
    if _compiles(clip):
        return _compiled(_activated_sums)(clip, taps, bias)
    return quick_gelu(_shifted_sums(clip, taps, bias))


def select_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[s, b, ...] and [rows] int64 below b, in any order and as often as asked -> [s, rows, ...].

    On a GPU the gradient is a product with the index as ones and zeros: torch's adds element after element, atomically, in half precision.
    """
    if not x.is_cuda:
        return x.index_select(1, index)
    selected: torch.Tensor = _SelectRows.apply(x, index)
    return selected


def _quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(QUICK * x)


def _shifted_sums(clip: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    past, now, future = taps.unbind(1)
    out = torch.addcmul(bias, clip, now)
    if clip.shape[2] > 1:
        out = torch.addcmul(out, F.pad(clip[:, :, :-1], (0, 0, 1, 0)), past)
        out = torch.addcmul(out, F.pad(clip[:, :, 1:], (0, 0, 0, 1)), future)
    return out


def _activated_sums(clip: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return _quick_gelu(_shifted_sums(clip, taps, bias))


class _QuickGelu(torch.autograd.Function):
    """As silu(1.702 x) / 1.702, whose derivative is one kernel of torch's and needs one tensor kept."""

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


class _SelectRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[1]
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,), gradient = ctx.saved_tensors, incoming[0]
        asked = F.one_hot(index, ctx.rows).to(gradient.dtype)
        return (asked.T @ gradient.flatten(2)).unflatten(2, gradient.shape[2:]), None


def _compiles(x: torch.Tensor) -> bool:
    return x.is_cuda and _has_compilers()


@cache
def _has_compilers() -> bool:
    """Triton's, and the C compiler that it builds its launchers with."""
    c_compilers = (os.environ.get("CC"), "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(name and shutil.which(name) for name in c_compilers)


@cache
def _compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Once for all shapes: a run has many."""
    compiled: Callable[..., torch.Tensor] = torch.compile(function, dynamic=True)
    return compiled
