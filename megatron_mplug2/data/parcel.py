"""Results on their way between processes: each lies in a crate, a file without a name, in memory, that the receiver maps instead of
copying.

Crates go around: one whose tensors the receiver has all let go of is filled again, since new pages cost the kernel as much as a copy. They
go with the last process or tensor that holds them, also after a kill -9: there is nothing to clean up.
"""

import mmap
import os
import pickle
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
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
    """Where things lie in a crate: first bytes and sizes."""

    crate: int
    """The sender's number of it."""
    spans: tuple[tuple[int, int], ...]
    """Of the buffers of tensors and arrays, and last of the pickle of all else."""


def stacked_on_arrival(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """`torch.stack` of tensors of one shape and type, for a result that goes into a parcel: it is made as they are written there, which
    saves a copy. Until then it is no tensor."""
    return cast(torch.Tensor, _Stack(tuple(tensors)))


class Packer:
    """A sender's crates. There are as many as results that are under way, waiting or in use at a time, each as large as its largest."""

    def __init__(self) -> None:
        self._handles: list[int] = []
        """By number."""
        self._sizes: list[int] = []
        """Bytes that lie in each, or have."""
        self._empty: set[int] = set()

    def pack(self, result: object) -> Parcel:
        """The result may be anything that pickles. Raises what pickling raises, and OSError where there is no memory."""
        rest = BytesIO()
        pickler = _Pickler(rest)
        pickler.dump(result)
        spans, end = [], 0
        buffers = [*pickler.buffers, [rest.getbuffer()]]
        for pieces in buffers:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + sum(piece.nbytes for piece in pieces)
            spans.append((start, end - start))
        parcel = Parcel(self._crate(end), tuple(spans))
        for pieces, (start, _) in zip(buffers, spans, strict=True):
            for piece in pieces:
                _write(self._handles[parcel.crate], piece, start)
                start += piece.nbytes
        self._empty.discard(parcel.crate)
        return parcel

    def handle(self, parcel: Parcel) -> int:
        """The descriptor of its crate's file."""
        return self._handles[parcel.crate]

    def fill_again(self, crates: Iterable[int]) -> None:
        """Those that the receiver's `emptied` has named."""
        self._empty.update(crates)

    def _crate(self, size: int) -> int:
        """An empty one, of those that are large enough the smallest; none of them is taken out of `_empty` yet."""
        if not self._empty:
            self._handles.append(_unnamed_file())
            self._sizes.append(0)
            self._empty.add(len(self._sizes) - 1)
        number = min(self._empty, key=lambda number: (self._sizes[number] < size, abs(self._sizes[number] - size)))
        if self._sizes[number] < size:
            os.ftruncate(self._handles[number], size)
            self._sizes[number] = size
        return number


class Unpacker:
    """What a receiver knows of one sender's crates."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}
        self._emptied: deque[int] = deque()
        """Filled by whichever thread drops the last tensor."""

    def knows(self, parcel: Parcel) -> bool:
        """Whether it has the descriptor of the parcel's crate."""
        return parcel.crate in self._handles

    def add(self, parcel: Parcel, handle: int) -> None:
        """Gives it the descriptor, which is its own from now on."""
        self._handles[parcel.crate] = handle

    def unpack(self, parcel: Parcel) -> Any:
        """The result. Its tensors lie in the crate, which is not filled again as long as one of them lives."""
        mapped = mmap.mmap(self._handles[parcel.crate], sum(parcel.spans[-1]))
        weakref.finalize(mapped, self._emptied.append, parcel.crate).atexit = False
        whole = memoryview(mapped)
        *buffers, rest = (whole[start : start + size] for start, size in parcel.spans)
        return pickle.loads(rest, buffers=buffers)

    def emptied(self) -> tuple[int, ...]:
        """Crates that nothing lies in any more, each named once."""
        return tuple(self._emptied.popleft() for _ in range(len(self._emptied)))

    def close(self) -> None:
        """Results that are still held stay whole."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()


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
