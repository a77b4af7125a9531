"""A result on its way between processes: one file without a name, in memory, that the receiver maps instead of copying.

Its pages go with the last process or tensor that holds them, also after a kill -9: there is nothing to clean up.
"""

import mmap
import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import torch

_ALIGNMENT = 64
"""Bytes: a cache line, and more than any type asks for."""
_LONGEST_WRITE = 1 << 30
"""Linux writes 2 GiB at a time at most."""


@dataclass(frozen=True)
class Parcel:
    """Where things lie in the file: first bytes and sizes."""

    spans: tuple[tuple[int, int], ...]
    """Of the buffers of tensors and arrays, and last of the pickle of all else."""


def stacked_on_arrival(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """`torch.stack` of tensors of one shape and type, for a result that goes into a parcel: it is made as they are written there, which
    saves a copy. Until then it is no tensor."""
    return cast(torch.Tensor, _Stack(tuple(tensors)))


def pack(result: object) -> tuple[int, Parcel]:
    """A new file's descriptor, the caller's to close, and what lies in it. The result may be anything that pickles."""
    rest = BytesIO()
    pickler = _Pickler(rest)
    pickler.dump(result)
    spans, end = [], 0
    buffers = [*pickler.buffers, [rest.getbuffer()]]
    for pieces in buffers:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + sum(piece.nbytes for piece in pieces)
        spans.append((start, end - start))
    handle = _unnamed_file()
    try:
        os.ftruncate(handle, end)
        for pieces, (start, _) in zip(buffers, spans, strict=True):
            for piece in pieces:
                _write(handle, piece, start)
                start += piece.nbytes
    except BaseException:
        os.close(handle)
        raise
    return handle, Parcel(tuple(spans))


def unpack(handle: int, parcel: Parcel) -> Any:
    """The result; its tensors lie in the file, which needs no descriptor any more: it is closed."""
    try:
        mapped = mmap.mmap(handle, sum(parcel.spans[-1]))
    finally:
        os.close(handle)
    whole = memoryview(mapped)
    *buffers, rest = (whole[start : start + size] for start, size in parcel.spans)
    return pickle.loads(rest, buffers=buffers)


@dataclass(frozen=True)
class _Stack:
    tensors: tuple[torch.Tensor, ...]


class _Pickler(pickle.Pickler):
    """Tensors go beside the pickle; numpy's arrays do so by themselves."""

    def __init__(self, rest: BytesIO) -> None:
        super().__init__(rest, protocol=5, buffer_callback=self._keep)
        self.buffers: list[list[memoryview]] = []
        """Each in the pieces that it is written from, one after the other."""
        self._following: dict[int, list[memoryview]] = {}
        """Pieces that follow a buffer, by its identity."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, torch.Tensor):
            return _tensor, (pickle.PickleBuffer(_bytes_of(value)), value.dtype, tuple(value.shape))
        if isinstance(value, _Stack):
            first, *others = value.tensors
            buffer = pickle.PickleBuffer(_bytes_of(first))
            self._following[id(buffer)] = [_bytes_of(tensor) for tensor in others]
            return _tensor, (buffer, first.dtype, (len(value.tensors), *first.shape))
        return NotImplemented

    def _keep(self, buffer: pickle.PickleBuffer) -> None:
        self.buffers.append([buffer.raw(), *self._following.pop(id(buffer), ())])


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _tensor(content: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not len(content):  # which `frombuffer` refuses
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).view(shape)


def _unnamed_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("batch", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(handle: int, piece: memoryview, start: int) -> None:
    done = 0
    while done < piece.nbytes:
        done += os.pwrite(handle, piece[done : done + _LONGEST_WRITE], start + done)
