"""Where a GPU's time of a step goes: its kernels by kind of work."""

from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

_CUDA = ProfilerActivity.CUDA
KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("sdpa", "fmha", "flash", "dot_do_o", "convert_dq"),
    "products": ("nvjet", "gemm", "splitkreduce", "cutlass", "conv", "nhwc", "wgrad"),
    "norms": ("layer_norm", "gammabeta", "add_norm"),
    "activations": ("gelu", "temporal_"),
    "dropout": ("dropout", "masked_scale", "philox"),
    "update": ("multi_tensor_apply", "adam"),
    "sums over rows": ("reduce_kernel",),
    "sums of two": ("functor_add",),
    "copies and selections": ("catarray", "copy", "select_rows", "gather", "index", "embedding", "memcpy", "memset", "fillfunctor"),
}
"""By what a kernel's name has in it; the first that fits. What fits none is "rest"."""


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "rest")


def sums_by_kind(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Of names and milliseconds, most first."""
    sums: dict[str, float] = {}
    for name, milliseconds in kernels:
        sums[kind_of(name)] = sums.get(kind_of(name), 0.0) + milliseconds
    return {kind: round(sums[kind], 2) for kind in sorted(sums, key=lambda kind: -sums[kind])}


def kernel_parts(step: Callable[[], None]) -> dict[str, float]:
    """Milliseconds of one step's kernels by kind of work."""
    with profile(activities=[_CUDA]) as watched:
        step()
        torch.cuda.synchronize()
    events = [event for event in watched.events() if event.device_type.name == _CUDA.name and not _is_span(event.name)]
    return sums_by_kind((event.name, event.device_time_total / 1000) for event in events)


def _is_span(name: str) -> bool:
    """Of a range that holds kernels, which the profiler lists beside them."""
    return name.startswith(("##", "Optimizer.", "ProfilerStep"))
