"""A GPU that computes nothing: torch's fake tensors, which know their sizes, types and devices, and refuse operations across devices.

Beside them this puts in place what a CPU build of torch has not, of `torch.cuda` and of a process group on GPUs, and indices into
tensors, for which torch's own parser would look for a device. A value that the host reads is 0, of a comparison True.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import param_and_grad_buffer
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from megatron_mplug2.models import kernels
from megatron_mplug2.parallel import topology

GPU = torch.device("cuda", 0)
ASKED_TOKENS = 7
"""Of a MaskedLM microbatch: where the host asks how many there are."""
_TYPES = {"torch.FloatTensor": "torch.cuda.FloatTensor", "torch.BFloat16Tensor": "torch.cuda.BFloat16Tensor"}


def install() -> None:
    """Puts a fake GPU and its collectives into this process, for good. Call before a process group is made."""
    _replace(
        torch.cuda,
        is_available=lambda: True,
        current_device=lambda: 0,
        device_count=lambda: 1,
        synchronize=lambda *_: None,
        get_device_name=lambda *_: "fake",
        get_device_capability=lambda *_: (9, 0),
        get_device_properties=lambda *_: SimpleNamespace(major=9, minor=0, total_memory=1 << 37),
        default_generators=(torch.default_generator,),
        Stream=_Queue,
        Event=_Queue,
        current_stream=lambda *_: _Queue(),
    )
    numbers = {"item": lambda x: 0.0, "__float__": lambda x: 0.0, "__int__": lambda x: 0, "__bool__": lambda x: True}
    values = {"tolist": lambda x: _zeros(x.shape)} | numbers
    _replace(torch.Tensor, **{name: _read(getattr(torch.Tensor, name), value) for name, value in values.items()})
    _replace(torch.Tensor, pin_memory=lambda tensor, *_: tensor)
    _replace(dist, all_reduce=lambda *_, async_op=False, **__: _Queue() if async_op else None)
    _replace(dist, all_gather_object=_all_gather_object)
    _replace(param_and_grad_buffer, _coalescing_manager=_coalescing_manager)
    _replace(topology, _host_group=lambda: dist.group.WORLD, _tensor_host_group=lambda layout: dist.group.WORLD)
    _replace(kernels, _has_compilers=lambda: True)


def _replace(owner: object, **values: object) -> None:
    for name, value in values.items():
        setattr(owner, name, value)


@contextmanager
def fake_gpu() -> Iterator[None]:
    with _AsOnGpu(), FakeTensorMode(allow_non_fake_inputs=False):
        yield


class _Queue:
    """A stream, an event, or what a collective returns: whatever is asked of it is done."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., "_Queue"]:
        return lambda *_, **__: self


def _read(real: Callable[..., Any], value: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda x, *given: value(x) if isinstance(x, FakeTensor) else real(x, *given)


def _zeros(shape: tuple[int, ...]) -> Any:
    return [_zeros(shape[1:]) for _ in range(shape[0])] if shape else 0.0


def _all_gather_object(gathered: list[Any], own: Any, group: Any = None) -> None:
    gathered[:] = [own] * len(gathered)


@contextmanager
def _coalescing_manager(*_: object, **__: object) -> Iterator[_Queue]:
    yield _Queue()


class _AsOnGpu(TorchFunctionMode):
    """Calls that fake tensors cannot take as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(kwargs.get("device"), int):
            kwargs["device"] = GPU
        if func is torch.tensor and kwargs.get("device") not in (None, torch.device("cpu")):
            on_host = func(*args, **{name: value for name, value in kwargs.items() if name != "device"})
            return torch.empty(on_host.shape, dtype=on_host.dtype, device=GPU)
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            name = func(*args)
            return _TYPES.get(name, name) if args[0].is_cuda else name
        if func is torch.Tensor.nonzero:
            return torch.empty(ASKED_TOKENS, args[0].dim(), dtype=torch.int64, device=args[0].device)
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            func(*args)
            args[0].fake_device = args[1].fake_device
            return None
        if func is torch.Tensor.__getitem__:
            return _at(*args)
        if func is torch.Tensor.__setitem__:
            return _put(*args)
        return func(*args, **kwargs)


def _at(x: torch.Tensor, key: Any) -> torch.Tensor:
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis not in [one for one in keys if not isinstance(one, torch.Tensor)]:
        keys.append(Ellipsis)
    place, chosen = 0, dict[int, torch.Tensor]()
    for number, one in enumerate(keys):
        if one is Ellipsis:
            place = x.dim() - sum(later is not None for later in keys[number + 1 :])
        elif one is None:
            x, place = torch.ops.aten.unsqueeze(x, place), place + 1
        elif isinstance(one, slice):
            x, place = torch.ops.aten.slice(x, place, one.start, one.stop, one.step or 1), place + 1
        elif isinstance(one, int):
            x = torch.ops.aten.select(x, place, one)
        else:
            chosen[place], place = one, place + 1
    if not chosen:
        return x
    whole: torch.Tensor = torch.ops.aten.index(x, [chosen.get(axis) for axis in range(max(chosen) + 1)])
    return whole


def _put(x: torch.Tensor, key: Any, value: Any) -> None:
    first = key[0] if isinstance(key, tuple) else key
    if isinstance(first, torch.Tensor) and first.dtype is torch.bool:
        x.masked_fill_(first[(..., *[None] * (x.dim() - first.dim()))], value)
    elif isinstance(value, torch.Tensor):
        _at(x, key).copy_(value)
    else:
        _at(x, key).fill_(value)
