"""The members of a stranger's tar by their places: nothing is extracted, no link is followed, no name becomes a file's."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from megatron_mplug2.errors import UserError


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

    Raises UserError for a file that is missing, no tar, or ends or breaks within, after the members before that.
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
            file.seek(tar.offset)  # tarfile takes a damaged head for the end
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no head of a member at {tar.offset}")
    except OSError as error:
        raise UserError(f"cannot read the tar {path}: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is no tar, or it is damaged ({error}): copy or download it anew, or take it out of the folder") from None


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _fault(info: tarfile.TarInfo) -> str:
    name = PurePosixPath(info.name)
    if not info.isreg() or info.issparse():
        return f"the member {_shown(info.name)!r} is no plain file"
    if name.is_absolute() or ".." in name.parts or "\0" in info.name or _shown(info.name) != info.name:
        return f"the member {_shown(info.name)!r} has no plain name"
    return ""
