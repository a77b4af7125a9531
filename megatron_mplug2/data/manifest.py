"""Which samples a stream has and where their bytes lie: the contract between `mplug2 data shard` and the loader.

A folder of a stream holds webdataset tars, `index.npy` (one row of `ROW` a sample) and `manifest.json`, which names every tar with its size
and digest and carries the digest of the index. A sample lies in its tar as `key.jpg`, `key.mp4` ... (none for text) and `key.json`, its
texts.
"""

import bisect
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from megatron_mplug2.data.index_row import FACTS, ROW, map_rows
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.record import Record, json_of
from megatron_mplug2.data.storage import LOCAL, Storage
from megatron_mplug2.data.tar_files import Shard as Shard
from megatron_mplug2.data.tar_files import TarFiles
from megatron_mplug2.errors import UserError

VERSION = 2
MANIFEST = "manifest.json"
INDEX = "index.npy"


class MediaKind(StrEnum):
    """What a stream's samples are; a folder holds one kind."""

    IMAGE = "image"
    VIDEO = "video"
    TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sample without its contents."""

    key: str
    kind: MediaKind
    media_id: int
    """63-bit hash of the picture's or clip's bytes (of a document's text): equal for equal media, in every folder."""
    meaning_id: int
    """63-bit hash of the sample's meaning; the media id where the corpus names none."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sample lies, by names that say the same on every machine."""

    dataset: str
    """Name of the folder."""
    shard: str
    """File name of the tar."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What `manifest.json` says. The digests make it stand for the whole folder."""

    kind: MediaKind
    samples: int
    index_sha256: str
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        return (json.dumps({"version": VERSION} | asdict(self), indent=1) + "\n").encode()

    @staticmethod
    def from_json(data: bytes) -> "Header":
        """Raises ValueError, KeyError or TypeError where the data is not a header of this version."""
        fields: dict[str, Any] = json_of(data)
        if not isinstance(fields, dict):
            raise TypeError(f"a JSON {type(fields).__name__}")
        if fields.pop("version") != VERSION:
            raise ValueError(f"not version {VERSION}")
        header = Header(**(fields | {"kind": MediaKind(fields["kind"]), "shards": tuple(Shard(**shard) for shard in fields["shards"])}))
        _check_digest(header.index_sha256, INDEX)
        for shard in header.shards:
            _check_shard(shard)
        return header


def _check_shard(shard: Shard) -> None:
    """Raises ValueError for a name that could lead out of the folder, and for what no tar can have."""
    if not isinstance(shard.name, str) or not re.fullmatch(r"[^/\\\0]+\.tar", shard.name):
        raise ValueError(f"its {MANIFEST} names {shard.name!r}, which is not the name of a tar in the folder")
    _check_digest(shard.sha256, shard.name)
    if not isinstance(shard.size, int) or shard.size < 0:
        raise ValueError(f"its {MANIFEST} has {shard.size!r} for the bytes of {shard.name}")


def _check_digest(digest: str, name: str) -> None:
    """Raises ValueError for what is none: as a name in the cache it could lead out of it."""
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"its {MANIFEST} has {digest!r} for the SHA-256 of {name}")


def content_id(role: str, data: bytes) -> int:
    """63-bit BLAKE2b of data; ids of different roles ("media", "meaning", "record") don't meet."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=role.encode()).digest(), "little") >> 1


class _Folder:
    """One stream's folder: header and index in memory (the index mapped), tars opened when a sample is asked for.

    A forked worker may go on with its parent's handles. One thread at a time.
    """

    def __init__(self, name: str, storage: Storage) -> None:
        self.name = name
        self.files = storage.open(name)
        try:
            raw_header = self.files.whole(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{name} has no {MANIFEST}: make the folder with `mplug2 data shard`") from None
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error}") from None
        try:
            self.header = Header.from_json(raw_header)
            size = self.header.samples * ROW.itemsize
            self.index = map_rows(self.files.on_disk(INDEX, self.header.index_sha256, size))
        except OSError as error:
            raise UserError(f"{name}/{INDEX} cannot be read: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name} is not readable as a corpus ({error}): make it anew with `mplug2 data shard`") from None
        if len(self.index) != self.header.samples:
            raise UserError(f"{name}/{INDEX} does not fit {MANIFEST}: make the folder anew with `mplug2 data shard`")
        self.raw_header = raw_header

    def member(self, row: Any, role: str) -> bytes:
        """Raises OSError where a member's bytes cannot be read or have changed, UserError where the index names a place in no tar."""
        number, offset, size = int(row["shard"]), int(row[f"{role}_offset"]), int(row[f"{role}_size"])
        if not (0 <= number < len(self.header.shards) and 0 <= offset <= offset + size <= self.header.shards[number].size):
            raise UserError(
                f"{self.name}/{INDEX} is damaged: it names {size} bytes at {offset} of tar number {number}, which has none there; "
                "check the folder with `mplug2 data verify`"
            )
        shard = self.header.shards[number]
        if not size:
            return b""
        for _ in range(2):
            data = self.files.read(shard, offset, size)
            if content_id(role, data) == row[f"{role}_id"]:
                return data
            if not self.files.forget(shard, offset, size):
                break
        raise OSError(f"the {role} of {row['key'].decode()} is damaged on disk")

    def check_files(self) -> None:
        for shard in self.header.shards:
            if fault := self.files.fault(shard):
                raise UserError(f"{self.name}/{shard.name} {fault}")


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """What a folder holds, in short."""

    name: str
    samples: int
    index_sha256: str
    fingerprint: str
    """SHA-256 of the header, and so of all contents."""


class Manifest:
    """The samples of one stream, over one or more folders (paths or URLs) in a given order. Pickles as the list of its folders."""

    def __init__(self, folders: Sequence[Path | str], storage: Storage = LOCAL) -> None:
        if not folders:
            raise UserError("a stream without folders: name at least one folder made by `mplug2 data shard`")
        self._storage = storage
        self._folders = tuple(_Folder(str(folder).rstrip("/"), storage) for folder in folders)
        kinds = {folder.header.kind for folder in self._folders}
        if len(kinds) > 1:
            raise UserError(f"{', '.join(map(str, folders))} hold different kinds ({', '.join(sorted(kinds))}): one stream has one kind")
        self.kind = self._folders[0].header.kind
        self._ends = tuple(itertools.accumulate(len(folder.index) for folder in self._folders))
        if not self._ends[-1]:
            raise UserError(f"{', '.join(map(str, folders))}: no samples; look into report.json there, then run `mplug2 data shard` again")

    @staticmethod
    def load(folder: Path | str) -> "Manifest":
        """Raises UserError for a missing, damaged or empty folder."""
        return Manifest([folder])

    @staticmethod
    def load_all(folders: Sequence[Path | str], storage: Storage = LOCAL) -> "Manifest":
        """All folders' samples, in the given order. Raises UserError as `load` does, and for folders of different kinds."""
        return Manifest(folders, storage)

    def __len__(self) -> int:
        return self._ends[-1]

    def entry(self, i: int) -> Entry:
        row = self._row(i)[1]
        return Entry(key=row["key"].decode(), kind=self.kind, media_id=int(row["media_id"]), meaning_id=int(row["meaning_id"]))

    def place(self, i: int) -> Place:
        folder, row = self._row(i)
        shards, number = folder.header.shards, int(row["shard"])
        return Place(dataset=PurePath(folder.name).name, shard=shards[number].name if 0 <= number < len(shards) else f"tar number {number}")

    def record(self, i: int) -> Record:
        """The texts. Raises OSError when they cannot be read, or are not those that were sharded."""
        folder, row = self._row(i)
        return Record.from_json(folder.member(row, "record"))

    def media(self, i: int) -> bytes:
        """The file's bytes, undecoded; empty for text. Raises OSError when they cannot be read, or are not those that were sharded."""
        folder, row = self._row(i)
        return folder.member(row, "media")

    def second_media(self, i: int) -> bytes:
        """The other picture of a pair; empty where there is none. Raises as `media`."""
        folder, row = self._row(i)
        return folder.member(row, "second")

    def facts(self, i: int) -> MediaFacts:
        """What is known of the picture or clip."""
        row = self._row(i)[1]
        return MediaFacts(codec=row["codec"].decode(), **{name: row[name].item() for name in FACTS})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the folders' headers, and so over all contents and their order, not over where the folders lie."""
        return hashlib.sha256(b"\0".join(folder.raw_header for folder in self._folders)).hexdigest()

    @property
    def folders(self) -> tuple[FolderFacts, ...]:
        return tuple(
            FolderFacts(
                name=folder.name,
                samples=folder.header.samples,
                index_sha256=folder.header.index_sha256,
                fingerprint=hashlib.sha256(folder.raw_header).hexdigest(),
            )
            for folder in self._folders
        )

    @property
    def tars(self) -> tuple[tuple[TarFiles, Shard], ...]:
        """Every tar with the files that it is one of."""
        return tuple((folder.files, shard) for folder in self._folders for shard in folder.header.shards)

    def check_files(self) -> None:
        """Quick check before a run: raises UserError naming the first local tar that is missing, leads out of its folder, or has another
        size than when it was made."""
        for folder in self._folders:
            folder.check_files()

    def close(self) -> None:
        """Closes the tars; a later read opens them again."""
        for folder in self._folders:
            folder.files.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Manifest, ([folder.name for folder in self._folders], self._storage)

    def _row(self, i: int) -> tuple[_Folder, Any]:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        part = bisect.bisect_right(self._ends, i)
        folder = self._folders[part]
        return folder, folder.index[i - self._ends[part] + len(folder.index)]
