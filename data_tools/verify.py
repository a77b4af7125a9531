"""`mplug2 data verify`: checks shards against their manifests, byte by byte."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files_below import files_below, named
from data_tools.progress import track
from data_tools.sources.tar_members import read_members
from data_tools.stages.digest import file_sha256
from data_tools.stages.part import Part
from data_tools.stages.rows import Rows
from data_tools.stages.shard_texts import KINDS, ShardTexts
from megatron_mplug2.data.index_row import map_rows
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, Shard, content_id
from megatron_mplug2.data.tar_files import LocalFiles
from megatron_mplug2.errors import UserError

_WHOLE = Part()
_ROLES = {"record": "texts", "media": "media", "second": "second picture"}
_MOST_BYTES = 1 << 62
"""Of a tar, whatever a manifest says: what an index can count."""
_AGAIN = f"delete {MANIFEST}, then run `mplug2 data index` on its folder"


def stream_folders(place: Path) -> list[Path]:
    """The folders of streams under `place`, or `place` itself. Raises UserError when there are none, and where a folder cannot be
    read."""
    folders = [path.parent for path in files_below(place, named(MANIFEST))]
    if not folders:
        raise UserError(f"{place} holds no {MANIFEST}: name a folder made by `mplug2 data shard`")
    return folders


def verify(place: Path, part: Part = _WHOLE, workers: int = 1) -> list[str]:
    """All faults of the streams' folders under `place`, one line each; none when every byte is as it was written.

    A part checks every n-th tar, and all manifests and indices. `workers` are threads: what takes long, reading and hashing, runs in
    parallel.
    """
    folders = [_Folder.load(folder) for folder in stream_folders(place)]
    faults = [*_unfinished(place, {folder.path for folder in folders}), *(fault for folder in folders for fault in folder.faults)]
    tars = [(folder, number) for folder in folders for number in range(len(folder.shards))]
    mine = [tar for number, tar in enumerate(tars) if part.has(number)]
    with ThreadPoolExecutor(workers) as pool:
        for found in track(pool.map(lambda tar: tar[0].tar_faults(tar[1]), mine), f"tars of {place.name}", len(mine)):
            faults += found
    return faults


def _unfinished(place: Path, folders: set[Path]) -> list[str]:
    """Folders below `place` whose tars no manifest names: a writer is at work, was ended, or the manifest was lost."""
    lone = sorted({tar.parent for tar in files_below(place, lambda name: name.endswith(".tar"))} - folders)
    return [f"{folder}: tars without a {MANIFEST}: run `mplug2 data shard` to its end, or `mplug2 data index {folder}`" for folder in lone]


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """A stream's folder as far as it can be trusted."""

    path: Path
    shards: tuple[Shard, ...] = ()
    rows: Rows | None = None
    """None where the index is damaged; rows that point outside their tars are not among them."""
    faults: tuple[str, ...]

    @staticmethod
    def load(path: Path) -> "_Folder":
        try:
            header = Header.from_json((path / MANIFEST).read_bytes())
        except OSError as error:
            return _Folder(path=path, faults=(f"{path / MANIFEST}: {error.strerror}",))
        except (ValueError, KeyError, TypeError) as error:
            return _Folder(path=path, faults=(f"{path / MANIFEST}: not readable ({error}): {_AGAIN}",))
        names = {shard.name for shard in header.shards}
        faults = [f"{tar}: not in {MANIFEST}" for tar in sorted(path.glob("*.tar")) if tar.name not in names]
        try:
            rows = _rows(path / INDEX, header)
        except OSError as error:
            return _Folder(path=path, shards=header.shards, faults=(*faults, f"{path / INDEX}: {error.strerror or error}: {_AGAIN}"))
        inside = _inside(rows, header.shards)
        faults += [f"{path / INDEX}: {_key(row)}: points outside its tar" for row in rows[~inside]]
        faults += _wrong_kind(path, header, rows[inside])
        return _Folder(path=path, shards=header.shards, rows=rows if inside.all() else rows[inside], faults=tuple(faults))

    def tar_faults(self, number: int) -> list[str]:
        """Of one tar."""
        shard = self.shards[number]
        path = self.path / shard.name
        try:
            quick = LocalFiles(self.path).fault(shard)
            if quick is None and file_sha256(path) == shard.sha256:
                return []
            rows = None if self.rows is None or not path.is_file() or path.is_symlink() else self.rows[self.rows["shard"] == number]
            if rows is not None and path.stat().st_size < shard.size:
                return _faults_of_a_cut_tar(path, quick, rows)
            faults = [f"{path} {quick}"] if quick else []
            if rows is not None:
                faults += _sample_faults(path, rows)
        except OSError as error:
            return [f"{path}: {error.strerror or error}"]
        return faults or [f"{path}: damaged{'' if self.rows is None else ' outside the samples'}"]


def _rows(path: Path, header: Header) -> Rows:
    """Raises OSError where they are not those that the manifest was made for."""
    if file_sha256(path) != header.index_sha256:
        raise OSError(f"damaged, or not the one that {MANIFEST} was made for")
    try:
        rows = map_rows(path)
    except ValueError as error:
        raise OSError(f"not readable ({error})") from None
    if len(rows) != header.samples:
        raise OSError(f"does not fit {MANIFEST}")
    return rows


def _wrong_kind(path: Path, header: Header, rows: Rows) -> list[str]:
    """Of a stream whose manifest calls it another than its samples' texts do; one speaks for all."""
    if not len(rows):
        return []
    row = rows[0]
    try:
        with (path / header.shards[row["shard"]].name).open("rb") as file:
            file.seek(int(row["record_offset"]))
            kind = KINDS[ShardTexts.from_json(file.read(int(row["record_size"]))).stream]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the tar's faults tell it better
        return []
    return [] if kind is header.kind else [f"{path / MANIFEST}: calls its samples {header.kind}, which are {kind}: {_AGAIN}"]


def _inside(rows: Rows, shards: tuple[Shard, ...]) -> Any:
    """[samples] whether all places of a row lie in its tar."""
    number = rows["shard"]
    inside = (number >= 0) & (number < len(shards))
    sizes = np.array([min(shard.size, _MOST_BYTES) for shard in shards] or [0])[np.where(inside, number, 0)]
    for role in _ROLES:
        offset, size = rows[f"{role}_offset"], rows[f"{role}_size"]
        inside &= (offset >= 0) & (size >= 0) & (offset <= sizes - np.maximum(size, 0))
    return inside


def _faults_of_a_cut_tar(path: Path, quick: str | None, rows: Rows) -> list[str]:
    """One line for all that the cut took, and one for each sample before it that is damaged."""
    ends = np.max([rows[f"{role}_offset"] + rows[f"{role}_size"] for role in _ROLES], axis=0)
    there = ends <= path.stat().st_size
    cut = int(np.count_nonzero(~there))
    return [f"{path} {quick}; {cut} of its {len(rows)} samples are cut off", *_damaged_samples(path, rows[there])]


def _damaged_samples(path: Path, rows: Rows) -> list[str]:
    with path.open("rb") as file:
        return [f"{path}: {_key(row)}: {what} damaged" for row in rows for what in _damaged(file, row)]


def _sample_faults(path: Path, rows: Rows) -> list[str]:
    faults = _damaged_samples(path, rows)
    seen: set[str] = set()
    try:
        seen.update(member.name.partition(".")[0] for member in read_members(path))
    except UserError as error:  # behind the place where it breaks all keys are unseen: one line says so
        return [*faults, str(error)]
    return faults + [f"{path}: {_key(row)}: missing from the tar" for row in rows if _key(row) not in seen]


def _damaged(file: Any, row: Any) -> Iterator[str]:
    """The members of a sample that are not as they were."""
    for role, what in _ROLES.items():
        file.seek(int(row[f"{role}_offset"]))
        if row[f"{role}_size"] and content_id(role, file.read(int(row[f"{role}_size"]))) != row[f"{role}_id"]:
            yield what


def _key(row: Any) -> str:
    text: str = row["key"].decode("ascii", "backslashreplace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
