"""Where tensors live, and what lets Megatron-Core run where there is no GPU.

Megatron-Core 0.16.1 asks `torch.cuda` for the device in its layers, and writes the literal "cuda" in its schedules and its
optimizer. Where CUDA exists nothing here changes anything. Where it doesn't:

- `install_cpu_backend` points the few `torch.cuda` functions that layers and collectives call at the CPU, once a process;
- `megatron_runtime` rewrites device literals and type names inside Megatron-Core's schedules and optimizer, and
- `own_code` switches that rewriting off again around our own forward pass, which never names a device.
"""

import ctypes
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")
_CPU_TYPE_NAMES = {
    "torch.FloatTensor": "torch.cuda.FloatTensor",
    "torch.BFloat16Tensor": "torch.cuda.BFloat16Tensor",
    "torch.HalfTensor": "torch.cuda.HalfTensor",
}


@cache  # every dropout asks; a process neither gains nor loses a GPU, and a forked one has its parent's
def on_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> torch.device:
    """The device of this rank's tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu() else _CPU


def backend() -> str:
    """Name of the collective backend that serves `device()`."""
    return "nccl" if on_gpu() else "gloo"


def peak_memory_gb() -> float:
    """Most that this process has had at once, in 1e9 bytes: allocated on its GPU since the last call, or resident since its start."""
    if not on_gpu():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return peak


def _names_cuda(value: object) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))


class _CudaMeansCpu(TorchFunctionMode):
    """Rewrites what Megatron-Core says of CUDA into what the CPU can do."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _names_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            name = func(*args)
            return _CPU_TYPE_NAMES.get(name, name)
        return func(*args, **kwargs)


def install_cpu_backend() -> None:
    """Makes Megatron-Core's layers and collectives allocate on the CPU; does nothing where CUDA exists."""
    if on_gpu():
        return
    torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.empty_cache = lambda: None


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>
_NEVER = -1


def keep_freed_memory() -> None:
    """Lets the C library keep memory that was freed for the next allocation; does nothing where tensors live on a GPU.

    By default glibc gives every block over 32 MB back at once, and the kernel then clears each page of the next one again: a tenth of a
    training step of the base model. Resident memory stays at its peak, which every step reaches anyway.
    """
    if on_gpu() or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


@contextmanager
def megatron_runtime() -> Iterator[None]:
    """Around Megatron-Core's schedules, optimizer construction and optimizer step."""
    with nullcontext() if on_gpu() else _CudaMeansCpu():
        yield


@contextmanager
def own_code() -> Iterator[None]:
    """Around our own forward inside a Megatron-Core schedule: operations there don't pay for the rewriting."""
    with nullcontext() if on_gpu() else torch._C.DisableTorchFunction():
        yield
