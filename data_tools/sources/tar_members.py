"""The members of a stranger's tar by their places: nothing is extracted, no link is followed, no name becomes a file's."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from megatron_mplug2.errors import UserError

_PIECE = 1 << 20
"""Bytes that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Member:
    name: str
    """In Unicode: what was not is a question mark."""
    offset: int
    size: int
    """Bytes."""
    fault: str = ""
    """Why it is not used; empty for a plain file."""


def read_members(path: Path) -> Iterator[Member]:
    """The members of an uncompressed tar in their order, without its folders.

    Raises UserError for a file that is missing, no tar, ends or breaks within, or holds more behind its end, after the members before that.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            for info in tar:
                if info.offset < end or info.size < 0:
                    raise tarfile.ReadError("a member lies before the one before it")
                end = info.offset_data
                if not info.isdir():
                    yield Member(name=_shown(info.name), offset=info.offset_data, size=info.size, fault=_fault(info))
            _check_end(file, tar.offset)
    except OSError as error:
        raise UserError(f"cannot read the tar {path}: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is no tar, or it is damaged ({error}): copy or download it anew, or take it out of the folder") from None


def _check_end(file: IO[bytes], end: int) -> None:
    """Raises ReadError where what is behind the last member is anything but zeros, two blocks or more: the tar was cut off there, tarfile
    took a damaged head or a hole for its end, or another tar was put behind it."""
    file.seek(end)
    size = 0
    while block := file.read(_PIECE):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"more than zeros behind the end of its members, byte {end}")
        size += len(block)
    if size < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"cut off at byte {end}: no two blocks of zeros at its end")


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _fault(info: tarfile.TarInfo) -> str:
    name = PurePosixPath(info.name)
    if not info.isreg() or info.issparse():
        return f"the member {_shown(info.name)!r} is no plain file"
    if name.is_absolute() or ".." in name.parts or "\0" in info.name or _shown(info.name) != info.name:
        return f"the member {_shown(info.name)!r} has no plain name"
    return ""
