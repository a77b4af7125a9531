"""A bounded cache of blocks of remote files on a disk of the node, shared by its processes and by runs, and left whole by a kill -9.

`blocks/DIGEST/NUMBER` holds block NUMBER of the file of that SHA-256, so another content never stands for it. Blocks are written under
another name and renamed. A block that is too short is fetched anew; one whose bytes have changed is found by the checksum of the member
that lies in it, whose reader then asks to `forget` it.
"""

import os
import sys
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from megatron_mplug2.data.locked import locked

BLOCK_BYTES = 4 << 20
"""A hundred pictures that the order takes within a window of each other, or a few clips."""
_FETCHES = 64
"""Locks of blocks that are being fetched; several blocks share one."""
_PART = ".part"

Fetch = Callable[[int, int], bytes]
"""Bytes from a start to an end. Raises OSError."""


class DiskCache:
    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """The limit holds at any time, over all processes."""
        self._blocks = folder / "blocks"
        self._locks = folder / "locks"
        self._total = folder / "total"
        self._limit = limit_bytes
        self._told = False

    def read(self, digest: str, file_size: int, offset: int, size: int, fetch: Fetch) -> bytes:
        """`size` bytes at `offset` of a file of `file_size` bytes. Blocks that lack are fetched, each by one process. Raises as `fetch`."""
        end = offset + size
        return b"".join(
            self._slice(
                self._path(digest, number),
                (number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, file_size)),
                (max(offset, number * BLOCK_BYTES), min(end, (number + 1) * BLOCK_BYTES)),
                fetch,
            )
            for number in _numbers(offset, end)
        )

    def check_writable(self) -> None:
        """Raises OSError where nothing can be kept in the folder."""
        with locked(self._locks / "total"):
            self._blocks.mkdir(exist_ok=True)

    def forget(self, digest: str, offset: int, size: int) -> bool:
        """Drops the blocks around these bytes. False where none was there."""
        paths = [self._path(digest, number) for number in _numbers(offset, offset + size)]
        there = [path for path in paths if path.exists()]
        for path in there:
            path.unlink(missing_ok=True)
        return bool(there)

    def _path(self, digest: str, number: int) -> Path:
        return self._blocks / digest / str(number)

    def _slice(self, path: Path, block: tuple[int, int], wanted: tuple[int, int], fetch: Fetch) -> bytes:
        size, start, end = block[1] - block[0], wanted[0] - block[0], wanted[1] - block[0]
        data = _read(path, size, start, end)
        if data is not None:
            return data
        with ExitStack() as held:
            try:
                held.enter_context(locked(self._locks / str(zlib.crc32(str(path).encode()) % _FETCHES)))
            except OSError as error:  # others may fetch the same
                self._tell(path, error)
            data = _read(path, size, start, end)
            if data is None:
                fetched = fetch(*block)
                self._store(path, fetched)
                data = fetched[start:end]
        return data

    def _store(self, path: Path, block: bytes) -> None:
        """A block that cannot be stored was fetched all the same: the run goes on."""
        if len(block) > self._limit:
            return
        try:
            with locked(self._locks / "total"):
                self._make_room(len(block))
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(path.name + _PART)  # written under the lock only: what a kill left is overwritten
                part.write_bytes(block)
                part.replace(path)
        except OSError as error:
            self._tell(path, error)

    def _tell(self, path: Path, error: OSError) -> None:
        """Once a process."""
        if not self._told:
            print(f"cache: cannot write {path} ({error.strerror}); reading goes on without it", file=sys.stderr, flush=True)
        self._told = True

    def _make_room(self, size: int) -> None:
        """Counts `size` bytes in before they are written, so that a kill in between counts too much and never too little."""
        total = self._counted()
        if total is None or total + size > self._limit:
            total = self._evict(self._limit - max(size, self._limit // 10))
        unfinished = self._total.with_name(self._total.name + _PART)
        unfinished.write_text(str(total + size))
        unfinished.replace(self._total)

    def _counted(self) -> int | None:
        try:
            return int(self._total.read_text())
        except (OSError, ValueError):
            return None

    def _evict(self, limit: int) -> int:
        """Drops what was not read for longest until at most `limit` bytes are left, and returns how many are."""
        found = []
        for path in self._blocks.glob("*/*"):
            with suppress(FileNotFoundError):  # forgotten meanwhile
                if path.suffix == _PART:
                    path.unlink()
                else:
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


def _numbers(offset: int, end: int) -> range:
    return range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))


def _read(path: Path, size: int, start: int, end: int) -> bytes | None:
    """Bytes of a block; None where it is not there or not whole, or cannot be read: its origin can."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_size != size:
            return None
        with suppress(OSError):  # a disk that takes no more writes
            os.utime(handle)  # read lately
        return os.pread(handle, end - start, start)
    finally:
        os.close(handle)
