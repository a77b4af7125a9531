"""Element-wise work, norms and selections in as few passes over memory as the device allows.

On a GPU with Triton and a C compiler these are kernels of our own (`gpu_kernels`); elsewhere they are torch's, written out by hand where
autograd would keep and read more than it needs.
"""

import importlib.util
import logging
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from megatron_mplug2.models import cpu_functions

_log = logging.getLogger(__name__)

ONEDNN_FROM = 1 << 22
"""Multiplications of a product: what oneDNN's kernels save with fewer, its calls cost (measured, one thread and two)."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[..., in], [out, in] and [out] -> [..., out]."""
    if x.device.type == "cpu" and x.dtype is torch.float32 and has_onednn() and x.shape[:-1].numel() * weight.numel() >= ONEDNN_FROM:
        by_onednn: torch.Tensor = cpu_functions.Linear.apply(x.contiguous(), weight, bias)
        return by_onednn
    return F.linear(x, weight, bias)


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's activation, x * sigmoid(1.702 x) [released code]."""
    if _has_own_kernels(x):
        from megatron_mplug2.models import gpu_functions

        on_gpu: torch.Tensor = gpu_functions.QuickGelu.apply(x.contiguous())
        return on_gpu
    activated: torch.Tensor = cpu_functions.QuickGelu.apply(x)
    return activated


def temporal_convolution(clip: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A depthwise convolution of 3 taps over time with its quick GELU, zero-padded at a clip's ends.

    [s, b, T, c], [c, 3] (of the frame before, the frame, the frame after) and [c] -> [s, b, T, c].
    """
    if _has_own_kernels(clip):
        from megatron_mplug2.models.gpu_functions import TemporalConvolution

        on_gpu: torch.Tensor = TemporalConvolution.apply(clip.contiguous(), taps, bias)
        return on_gpu
    return quick_gelu(_shifted_sums(clip, taps, bias))


def add_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    branch: torch.Tensor | None = None,
    shown: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A residual sum and its LayerNorm, with which the next branch begins: [s, b, h] both.

    `branch` None: nothing is added, but the gradients of both uses of x still meet in one pass. `shown` [s, 1, 1]: rows whose branch
    counts, 1, or does not, 0.
    """
    if _has_own_kernels(x):
        from megatron_mplug2.models.gpu_functions import AddNorm

        added = None if branch is None else branch.contiguous()
        both: tuple[torch.Tensor, torch.Tensor] = AddNorm.apply(x.contiguous(), added, shown, weight, bias, eps)
        return both
    if branch is not None:
        x = x + branch if shown is None else torch.addcmul(x, branch, shown)
    return x, F.layer_norm(x, weight.shape, weight, bias, eps)


def select_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[s, b, heads, width] and [rows] int64 below b, in any order and as often as asked -> [s, rows, heads, width].

    On a GPU the gradient is a product with the index as ones and zeros: torch's adds element after element, atomically, in half precision.
    """
    if not x.is_cuda:
        return x.index_select(1, index)
    selected: torch.Tensor = _SelectRows.apply(x, index)
    return selected


def _shifted_sums(clip: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    past, now, future = taps.unbind(1)
    out = torch.addcmul(bias, clip, now)
    if clip.shape[2] > 1:
        out = torch.addcmul(out, F.pad(clip[:, :, :-1], (0, 0, 1, 0)), past)
        out = torch.addcmul(out, F.pad(clip[:, :, 1:], (0, 0, 0, 1)), future)
    return out


class _SelectRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[1]
        if _has_own_kernels(x):
            from megatron_mplug2.models import gpu_functions

            return gpu_functions.select_rows(x, index)
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,), gradient = ctx.saved_tensors, incoming[0]
        asked = F.one_hot(index, ctx.rows).to(gradient.dtype)
        return (asked.T @ gradient.flatten(2)).unflatten(2, gradient.shape[2:]), None


def _has_own_kernels(x: torch.Tensor) -> bool:
    return x.is_cuda and _has_compilers()


@cache
def has_onednn() -> bool:
    """Whether this torch has its products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _has_compilers() -> bool:
    """Triton's, and what it builds its launchers with: a C compiler and Python's headers, which many machines have without the other.

    Says what is missing, once.
    """
    c_compilers = (os.environ.get("CC"), "gcc", "clang")
    missing = [
        what
        for what, there in (
            ("triton", importlib.util.find_spec("triton") is not None),
            ("a C compiler", any(name and shutil.which(name) for name in c_compilers)),
            ("Python.h", Path(_headers(), "Python.h").exists()),
        )
        if not there
    ]
    if missing:
        _log.warning("torch's slower kernels run on this GPU, for want of %s: install it (python3-dev has Python.h)", " and ".join(missing))
    return not missing


def _headers() -> str:
    """Python's folder of headers, where Triton looks: Debian's scheme for packages of one's own has none."""
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
