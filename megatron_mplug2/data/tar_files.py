"""The files of a stream's folder, wherever it lies, read by name and place."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

OPEN_TARS = 64
"""Handles that are kept of a folder: about as many as a window of the sampler's order has tars. A dozen folders stay under 1,024."""
CHUNK = 16 << 20
"""Bytes at a time of a tar that is read from one end to the other."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar: file name, size in bytes, SHA-256 of the file."""

    name: str
    size: int
    sha256: str


class TarFiles(Protocol):
    """One folder's tars, and the files that describe them. One thread at a time; a forked process may go on with its parent's."""

    def whole(self, name: str) -> bytes:
        """A small file. Raises OSError, of a file that is not there FileNotFoundError or NotADirectoryError."""

    def on_disk(self, name: str, sha256: str, size: int) -> Path:
        """A file of this content and of about so many bytes on a disk of the node, to be mapped. Raises as `whole`."""

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Raises OSError when the tar is missing, ends early or cannot be read."""

    def chunks(self, shard: Shard) -> Iterator[bytes]:
        """A tar from its beginning to its end, past any cache. Raises as `read`."""

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        """Drops copies of bytes that turned out to be damaged. False where there was none, so that reading again gives the same."""

    def fault(self, shard: Shard) -> str | None:
        """What a quick look finds wrong with a tar, as the end of a sentence that begins with its name. Raises OSError."""

    def close(self) -> None:
        """A later read opens files again."""


class LocalFiles:
    """Reads with `pread`, so that processes may share a handle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handles: OrderedDict[str, int] = OrderedDict()

    def whole(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def on_disk(self, name: str, sha256: str, size: int) -> Path:
        return self._folder / name

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._handle(shard.name), size, offset)
            if len(data) != size:
                raise OSError(f"{self._folder / shard.name} ends early: {size} bytes expected at {offset}, {len(data)} read")
        except OSError:
            self.close(shard.name)  # its handle may be what is at fault (ESTALE): the next try opens the tar anew
            raise
        return data

    def chunks(self, shard: Shard) -> Iterator[bytes]:
        for start in range(0, shard.size, CHUNK):
            yield self.read(shard, start, min(CHUNK, shard.size - start))

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        return False

    def fault(self, shard: Shard) -> str | None:
        path = self._folder / shard.name
        if path.is_symlink() and not path.resolve().is_relative_to(self._folder.resolve()):
            return "is a link that leads out of its folder: put the tar itself there"
        if not path.is_file():
            return "is missing: copy it back or make the folder anew with `mplug2 data shard`"
        size = path.stat().st_size
        if size != shard.size:
            return f"has {size} bytes instead of {shard.size}: copy it anew or make it again with `mplug2 data shard`"
        return None

    def close(self, name: str | None = None) -> None:
        """`name`: this tar only."""
        for each in [name] if name else list(self._handles):
            if each in self._handles:
                os.close(self._handles.pop(each))

    def _handle(self, name: str) -> int:
        handle = self._handles.pop(name, None)
        if handle is None:
            handle = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._handles) >= OPEN_TARS:
                os.close(self._handles.popitem(last=False)[1])
        self._handles[name] = handle
        return handle
