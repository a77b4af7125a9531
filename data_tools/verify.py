"""Checks shards against their manifests, byte by byte."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.progress import track
from data_tools.shards import file_sha256
from megatron_mplug2.data.manifest import INDEX, MANIFEST, ROW, Header, Shard, content_id
from megatron_mplug2.errors import UserError


def stream_folders(place: Path) -> list[Path]:
    """The folders of streams under `place`, or `place` itself. Raises UserError when there are none."""
    folders = sorted(path.parent for path in place.rglob(MANIFEST))
    if not folders:
        raise UserError(f"{place} holds no {MANIFEST}: name a folder made by `mplug2 data shard`")
    return folders


def verify(place: Path) -> list[str]:
    """All faults of the streams' folders under `place`, one line each; none when every byte is as it was written."""
    return [fault for folder in stream_folders(place) for fault in _verify_folder(folder)]


def _verify_folder(folder: Path) -> list[str]:
    try:
        header = Header.from_json((folder / MANIFEST).read_bytes())
    except (ValueError, KeyError, TypeError) as error:
        return [f"{folder / MANIFEST}: not readable ({error})"]
    try:
        if file_sha256(folder / INDEX) != header.index_sha256:
            return [f"{folder / INDEX}: damaged, so that the tars beside it cannot be checked"]
    except OSError as error:
        return [f"{folder / INDEX}: {error.strerror}"]
    index = np.load(folder / INDEX)
    assert index.dtype == ROW
    faults = [f"{path}: not in {MANIFEST}" for path in sorted(folder.glob("*.tar")) if path.name not in {s.name for s in header.shards}]
    for number, shard in enumerate(track(header.shards, str(folder), len(header.shards))):
        faults += _verify_tar(folder / shard.name, shard, index[index["shard"] == number])
    return faults


def _verify_tar(path: Path, shard: Shard, rows: Any) -> list[str]:
    try:
        size = path.stat().st_size
        if size == shard.size and file_sha256(path) == shard.sha256:
            return []
        faults = [f"{path}: {size} bytes instead of {shard.size}"] if size != shard.size else []
        faults += [fault for row in rows for fault in _verify_sample(path, row)]
        faults += _missing_members(path, rows)
    except FileNotFoundError:
        return [f"{path}: missing"]
    except OSError as error:
        return [f"{path}: {error.strerror or error}"]
    return faults or [f"{path}: damaged outside the samples' contents"]


def _verify_sample(path: Path, row: Any) -> list[str]:
    key = row["key"].decode()
    with path.open("rb") as file:
        contents = {}
        for part in ("media", "record"):
            file.seek(int(row[f"{part}_offset"]))
            contents[part] = file.read(int(row[f"{part}_size"]))
    identity = content_id("media", contents["media"] or contents["record"])
    faults = [f"{path}: {key}: media damaged or cut off"] if row["media_size"] and identity != row["media_id"] else []
    if content_id("record", contents["record"]) != row["record_id"]:
        faults.append(f"{path}: {key}: texts damaged or cut off")
    return faults


def _missing_members(path: Path, rows: Any) -> list[str]:
    """Samples without a readable tar entry, as another reader of the tar sees it."""
    try:
        with tarfile.open(path) as tar:
            seen = {member.name.partition(".")[0] for member in tar}
    except tarfile.TarError as error:
        return [f"{path}: not readable as a tar ({error})"]
    return [f"{path}: {key}: missing from the tar" for key in (row["key"].decode() for row in rows) if key not in seen]
