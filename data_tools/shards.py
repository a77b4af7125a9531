"""Writes one stream's folder: webdataset tars, the index and the manifest (`megatron_mplug2.data.manifest` describes and reads them)."""

import hashlib
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray

from megatron_mplug2.data.manifest import INDEX, KEY_LENGTH, MANIFEST, ROW, Header, MediaKind, Shard, content_id
from megatron_mplug2.data.record import Record

_SHARD_BYTES = 256 << 20
"""A tar is closed once it has so many bytes."""


class ShardWriter:
    """Samples are written in the order of `add`; `close` makes the folder readable. The same samples give the same bytes."""

    def __init__(self, folder: Path, kind: MediaKind) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._kind = kind
        self._tables: list[NDArray[Any]] = []
        self._samples = 0
        self._shards: list[Shard] = []
        self._open_tar()

    def add(self, key: str, suffix: str, media: bytes, record: Record, meaning: str | None) -> None:
        """`key` is the corpus's name for the sample, `suffix` that of its file (".jpg"); both empty for what a text has not."""
        if self._file.tell() >= _SHARD_BYTES:
            self._close_tar()
            self._open_tar()
        name = f"{self._samples:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', key)}"[:KEY_LENGTH]
        texts = record.to_json()
        media_id = content_id("media", media or texts)
        meaning_id = media_id if meaning is None else content_id("meaning", meaning.encode())
        files = {"json": texts} | ({_member(suffix): media} if media else {})
        self._samples += 1
        self._tar.write({"__key__": name} | files)
        self._pending.append((name, _member(suffix) if media else None, media_id, meaning_id, content_id("record", texts)))

    def close(self) -> int:
        """Returns the number of samples."""
        self._close_tar()
        np.save(self._folder / INDEX, np.concatenate(self._tables))
        header = Header(kind=self._kind, samples=self._samples, index_sha256=file_sha256(self._folder / INDEX), shards=tuple(self._shards))
        (self._folder / MANIFEST).write_bytes(header.to_json())
        return self._samples

    def _open_tar(self) -> None:
        self._path = self._folder / f"{len(self._shards):06d}.tar"
        self._file = self._path.open("wb")
        self._tar = webdataset.TarWriter(self._file, encoder=False, mtime=0, user="", group="")
        self._pending: list[tuple[str, str | None, int, int, int]] = []

    def _close_tar(self) -> None:
        self._tar.close()
        self._file.close()
        with tarfile.open(self._path) as tar:
            members = {member.name: member for member in tar}
        rows = []
        for name, suffix, media_id, meaning_id, record_id in self._pending:
            texts = members[f"{name}.json"]
            media = members[f"{name}.{suffix}"] if suffix else None
            place = (media.offset_data, media.size) if media else (texts.offset_data, 0)
            identity = (name.encode(), media_id, meaning_id, len(self._shards))
            rows.append((*identity, *place, 0, 0, 0, texts.offset_data, texts.size, record_id, b"", 0, 0, 0, 0.0, 0.0, False))
        self._tables.append(np.array(rows, dtype=ROW))
        self._shards.append(Shard(name=self._path.name, size=self._path.stat().st_size, sha256=file_sha256(self._path)))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _member(suffix: str) -> str:
    """The suffix as a member's: without the dot, in lower case, and never that of the texts."""
    plain = re.sub(r"[^a-z0-9]", "", suffix.lower()) or "bin"
    return "bin" if plain == "json" else plain
