"""A result on its way between processes: one file without a name, in memory, that the receiver maps instead of copying.

Its pages go with the last process or tensor that holds them, also after a kill -9: there is nothing to clean up.
"""

import mmap
import os
import pickle
import sys
import tempfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any

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


def pack(result: object) -> tuple[int, Parcel]:
    """A new file's descriptor, the caller's to close, and what lies in it. The result may be anything that pickles."""
    buffers: list[pickle.PickleBuffer] = []
    rest = BytesIO()
    _Pickler(rest, protocol=5, buffer_callback=buffers.append).dump(result)
    pieces = [*(buffer.raw() for buffer in buffers), rest.getbuffer()]
    spans, end = [], 0
    for piece in pieces:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + piece.nbytes
        spans.append((start, piece.nbytes))
    handle = _unnamed_file()
    try:
        os.ftruncate(handle, end)
        for piece, (start, _) in zip(pieces, spans, strict=True):
            _write(handle, piece, start)
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


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        """Tensors go beside the pickle; numpy's arrays do so by themselves."""
        if isinstance(value, torch.Tensor):
            content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return _tensor, (pickle.PickleBuffer(content.data), value.dtype, tuple(value.shape))
        return NotImplemented


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
