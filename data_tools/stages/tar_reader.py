"""Reads the samples of a tar that `mplug2 data shard` wrote, or a stranger. Nothing is extracted, no link is followed, and whatever such a
tar would not hold is refused."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

from data_tools.stages.probe import MOST_MEDIA_BYTES
from data_tools.stages.rows import Member
from data_tools.stages.tar_writer import SECOND, TEXTS
from megatron_mplug2.data.manifest import KEY_LENGTH
from megatron_mplug2.errors import UserError

_NAME = re.compile(rf"([A-Za-z0-9_-]{{1,{KEY_LENGTH}}})\.((?:{re.escape(SECOND)})?[a-z0-9]+)", re.ASCII)
_MOST_AT_END = 1 << 20
"""Bytes of zeros that may end a tar; writers pad to 10 kB, some to larger blocks."""


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The files of a sample."""

    key: str
    record: Member
    media: Member | None
    second: Member | None


@dataclass(frozen=True, kw_only=True)
class _Found:
    key: str
    ending: str
    offset: int
    size: int


def tar_samples(path: Path) -> Iterator[TarSample]:
    """In the tar's order, one in memory at a time. Raises UserError, naming the member, for what `mplug2 data shard` does not write."""
    try:
        members = _members(path)
        with path.open("rb") as file:
            for key, group in groupby(members, key=lambda member: member.key):
                yield _sample(path, file, key, list(group))
    except tarfile.TarError as error:
        raise UserError(f"{path} is not readable as a tar ({error}): copy it anew, or take it out of its folder") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def headers(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of any tar, one after another, without their contents. Raises OSError, and tarfile.TarError where it cannot be read
    on; a member that ends before it begins, behind which `tarfile` would go in circles, is such a place."""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not 0 <= member.size <= size - member.offset_data:
                    raise tarfile.ReadError(f"{member.name[:100]!r} ends early")
                yield member
    except (ValueError, OverflowError, EOFError, RecursionError) as error:  # what hostile headers lead `tarfile` to
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from None


def _members(path: Path) -> list[_Found]:
    """Raises UserError for a member that is no plain file of a sample, or of a key that stood before, and for a tar that was cut off."""
    found: list[_Found] = []
    seen: set[str] = set()
    end = 0
    for member in headers(path):
        name = _NAME.fullmatch(member.name)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse() or not name:
            raise _refused(path, f"{member.name[:100]!r} is no plain file KEY.ENDING")
        if member.size > MOST_MEDIA_BYTES:
            raise _refused(path, f"{member.name} has {member.size} bytes")
        key = name[1]
        if key in seen and found[-1].key != key:
            raise _refused(path, f"{key} stands there twice")
        seen.add(key)
        found.append(_Found(key=key, ending=name[2], offset=member.offset_data, size=member.size))
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    _check_end(path, end)
    return found


def _check_end(path: Path, end: int) -> None:
    """A tar ends with two blocks of zeros or more. Without them members may have been cut off, and behind other bytes some may hide."""
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(_MOST_AT_END + 1)
    if not 2 * tarfile.BLOCKSIZE <= len(rest) <= _MOST_AT_END or any(rest):
        raise _refused(path, f"no zeros after its last member, at byte {end}: it was cut off or damaged")


def _sample(path: Path, file: IO[bytes], key: str, members: list[_Found]) -> TarSample:
    roles: dict[str, Member] = {}
    for member in members:
        role = "record" if member.ending == TEXTS else "second" if member.ending.startswith(SECOND) else "media"
        if role in roles:
            raise _refused(path, f"{key} has several files of one kind, such as {key}.{member.ending}")
        file.seek(member.offset)
        roles[role] = Member(offset=member.offset, data=file.read(member.size))
    if "record" not in roles or ("second" in roles and "media" not in roles):
        raise _refused(path, f"{key} has no {key}.{TEXTS if 'record' not in roles else 'first picture'}")
    return TarSample(key=key, record=roles["record"], media=roles.get("media"), second=roles.get("second"))


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: {why}; this is no tar that `mplug2 data shard` wrote: pack it with `mplug2 data shard webdataset {path.parent} --out DIR`"
    )
