"""Copies of tars on a disk of the node, made by one process a node while the run goes on; what is not there yet is read from its origin.

A copy is named by its SHA-256, is checked before it gets that name, and serves every run whose corpus has that tar.
"""

import ctypes
import errno
import gc
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path

from megatron_mplug2.data.locked import locked
from megatron_mplug2.data.tar_files import LocalFiles, Shard, TarFiles

TOLD_EVERY_S = 30.0
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_DAMAGE = (None, errno.EIO)
"""Of errors that are the copy's fault for all who read it: it ends early, or lies on a bad spot of the disk."""

Tars = Sequence[tuple[TarFiles, Shard]]


class StagedFiles:
    """Reads a tar's copy where there is one that can be read, else its origin."""

    def __init__(self, origin: TarFiles, folder: Path) -> None:
        self.origin = origin
        self._folder = folder
        self._copies = LocalFiles(folder)

    def whole(self, name: str) -> bytes:
        return self.origin.whole(name)

    def on_disk(self, name: str, sha256: str, size: int) -> Path:
        return self.origin.on_disk(name, sha256, size)

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        try:
            return self._copies.read(replace(shard, name=_name(shard)), offset, size)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _DAMAGE:
                with suppress(OSError):  # a disk that takes no writes any more, a copy of another user
                    (self._folder / _name(shard)).unlink()
        return self.origin.read(shard, offset, size)

    def chunks(self, shard: Shard) -> Iterator[bytes]:
        return self.origin.chunks(shard)

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        self._copies.close(_name(shard))
        try:
            (self._folder / _name(shard)).unlink()
        except FileNotFoundError:
            return self.origin.forget(shard, offset, size)
        return True

    def fault(self, shard: Shard) -> str | None:
        return self.origin.fault(shard)

    def close(self) -> None:
        self._copies.close()
        self.origin.close()


def start_staging(tars: Tars, folder: Path) -> ForkProcess:
    """Copies in a process of its own, which ends with this one. It does nothing where another process of the node copies there."""
    process = multiprocessing.get_context("fork").Process(target=_stage_apart, args=(tars, folder, os.getpid()), daemon=True)
    process.start()
    return process


def stage(tars: Tars, folder: Path) -> None:
    """Copies the tars that lack or are cut, telling on stderr how far it is. A tar that cannot be read is left out; at the first write that
    fails, as on a full disk, it ends: tars without a copy are read from where they are."""
    progress = _Progress(tars, folder)
    for files, shard in tars:
        if not _is_whole(folder / _name(shard), shard):
            try:
                reason = _copy(files, shard, folder)
            except _CannotWriteError as error:
                progress.tell(f"stops ({error}): the rest is read from where it is")
                return
            if reason:
                progress.tell(f"leaves out {shard.name} ({reason})")
                continue
        progress.staged(shard)
    progress.tell("done")


class _CannotWriteError(Exception):
    """The folder takes no more. The text is the reason."""


class _Progress:
    def __init__(self, tars: Tars, folder: Path) -> None:
        self._folder = folder
        self._of = f"{len(tars)} tars, {sum(shard.size for _, shard in tars) / 1e9:.1f} GB"
        self._tars = self._bytes = 0
        self._told = time.monotonic()

    def staged(self, shard: Shard) -> None:
        self._tars += 1
        self._bytes += shard.size
        if time.monotonic() - self._told >= TOLD_EVERY_S:
            self.tell("goes on")

    def tell(self, what: str) -> None:
        self._told = time.monotonic()
        print(f"staging to {self._folder} {what}: {self._tars} tars, {self._bytes / 1e9:.1f} GB of {self._of}", file=sys.stderr, flush=True)


def _name(shard: Shard) -> str:
    return f"{shard.sha256}.tar"


def _is_whole(copy: Path, shard: Shard) -> bool:
    """By its size. Bytes that have changed are found where they are read."""
    try:
        return copy.is_file() and copy.stat().st_size == shard.size and os.access(copy, os.R_OK)
    except OSError:
        return False


def _copy(files: TarFiles, shard: Shard, folder: Path) -> str | None:
    """Why there is no copy; None where there is one. Raises _CannotWriteError."""
    free = shutil.disk_usage(folder).free
    if free < shard.size:
        raise _CannotWriteError(f"{shard.name} has {shard.size} bytes, {free} are free")
    part = folder / f"{_name(shard)}.part"
    try:
        if _write(files, shard, part) != shard.sha256:
            return "its SHA-256 is not that of the manifest"
        return _named(part, folder / _name(shard))
    except _CannotReadError as error:
        return str(error)
    except OSError as error:
        raise _CannotWriteError(error.strerror or str(error)) from None
    finally:
        part.unlink(missing_ok=True)


def _named(part: Path, copy: Path) -> str | None:
    """As `_copy`. What cannot be put aside is in the way of this copy alone: a folder, or a file of another user."""
    try:
        part.replace(copy)
    except OSError as error:
        return f"{copy} is in the way: {error.strerror}"
    return None


def _write(files: TarFiles, shard: Shard, part: Path) -> str:
    """SHA-256 of what was written. Raises _CannotReadError, and OSError of the writing."""
    digest, chunks = hashlib.sha256(), files.chunks(shard)
    with part.open("wb") as file:
        while chunk := _next(chunks):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())  # a loss of power must not leave the name without the bytes
    return digest.hexdigest()


class _CannotReadError(Exception):
    """The origin gives no bytes. The text is the reason."""


def _next(chunks: Iterator[bytes]) -> bytes:
    """Empty at the end."""
    try:
        return next(chunks, b"")
    except OSError as error:
        raise _CannotReadError(str(error)) from None


def _stage_apart(tars: Tars, folder: Path, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches it too; the run still ends its step, and this process with it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
    gc.freeze()  # what the parent left unreferenced, such as a process group, must not be destroyed here
    os.nice(10)  # decoding goes first
    try:
        with locked(folder / "staging.lock", wait=False):
            stage(tars, folder)
    except BlockingIOError:
        pass  # another process of the node copies
    except OSError as error:
        print(f"staging to {folder} is not possible ({error}): tars are read from where they are", file=sys.stderr, flush=True)
