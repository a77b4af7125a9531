"""Reads the samples of a tar that `mplug2 data shard` wrote, or a stranger. Nothing is extracted, no link is followed, and whatever such a
tar would not hold is refused."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

from data_tools.sources.tar_members import Member, read_members
from data_tools.stages.probe import MOST_MEDIA_BYTES
from data_tools.stages.rows import Stored
from data_tools.stages.tar_writer import SECOND, TEXTS
from megatron_mplug2.data.index_row import KEY_LENGTH
from megatron_mplug2.errors import UserError

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{KEY_LENGTH}}}\.({re.escape(SECOND)})?[a-z0-9]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The files of a sample."""

    key: str
    record: Stored
    media: Stored | None
    second: Stored | None


def tar_samples(path: Path) -> Iterator[TarSample]:
    """In the tar's order, one in memory at a time. Raises UserError, naming the member, for what `mplug2 data shard` does not write."""
    members = list(read_members(path))
    try:
        with path.open("rb") as file:
            _check(path, members)
            for key, group in groupby(members, key=_key):
                yield _sample(path, file, key, list(group))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _check(path: Path, members: list[Member]) -> None:
    """Raises UserError for a member that is no plain file of a sample, or of a key that stood before."""
    seen: set[str] = set()
    last = ""
    for member in members:
        if member.fault or not _NAME.fullmatch(member.name):
            raise _refused(path, member.fault or f"the member {member.name[:100]!r} is not named KEY.ENDING")
        if member.size > MOST_MEDIA_BYTES:
            raise _refused(path, f"{member.name} has {member.size} bytes")
        key = _key(member)
        if key in seen and key != last:
            raise _refused(path, f"{key} stands there twice")
        seen.add(key)
        last = key


def _key(member: Member) -> str:
    return member.name.partition(".")[0]


def _sample(path: Path, file: IO[bytes], key: str, members: list[Member]) -> TarSample:
    roles: dict[str, Stored] = {}
    for member in members:
        ending = member.name.partition(".")[2]
        role = "record" if ending == TEXTS else "second" if ending.startswith(SECOND) else "media"
        if role in roles:
            raise _refused(path, f"{key} has several files of one kind, such as {member.name}")
        file.seek(member.offset)
        data = file.read(member.size)
        if len(data) != member.size:
            raise _refused(path, f"{member.name} ends early")
        roles[role] = Stored(offset=member.offset, data=data)
    if "record" not in roles or ("second" in roles and "media" not in roles):
        raise _refused(path, f"{key} has no {'texts, ' + key + '.' + TEXTS if 'record' not in roles else 'first picture'}")
    return TarSample(key=key, record=roles["record"], media=roles.get("media"), second=roles.get("second"))


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: {why}; `mplug2 data shard` writes no such tar: copy it anew, or pack another program's tars with "
        f"`mplug2 data shard webdataset {path.parent} --out DIR`"
    )
