"""Rows of the index: of one tar, kept beside the work until all tars are there, then joined into a stream's index and manifest."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.stages.digest import Digesting
from data_tools.stages.shard_texts import KINDS, ShardTexts
from data_tools.stages.text_ids import text_ids
from data_tools.stages.work_folder import WorkFolder
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.index_row import FACTS, ROW
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, Shard, content_id
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.errors import UserError

Rows = NDArray[Any]
"""[samples] of ROW."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file of a sample in a tar."""

    offset: int
    """Of its first byte in the tar."""
    data: bytes


def row_of(
    *, key: str, shard: int, texts: ShardTexts, record: Stored, media: Stored | None, second: Stored | None, facts: MediaFacts | None
) -> Any:
    """One ROW; `record` is the member that `texts` lie in, `facts` None for a text."""
    row = np.zeros((), ROW)
    row["key"], row["shard"] = key.encode(), shard
    row["media_id"] = text_ids(texts.record).whole  # of a text: as `probe` has it
    for role, member in (("media", media), ("second", second), ("record", record)):
        if member:
            row[f"{role}_offset"], row[f"{role}_size"] = member.offset, len(member.data)
            row[f"{role}_id"] = content_id(role, member.data)
    row["meaning_id"] = row["media_id"] if texts.meaning is None else content_id("meaning", texts.meaning.encode())
    if facts:
        row["codec"] = facts.codec.encode()
        for name in FACTS:
            row[name] = getattr(facts, name)
    return row


@dataclass(frozen=True, kw_only=True)
class TarRows:
    """What is known of a tar whose rows lie in a `.npy` beside this, a `.json`."""

    shard: Shard
    stream: Task

    def write(self, folder: WorkFolder, path: Path, rows: Rows) -> None:
        """Writes both files, `path` (the `.json`) last."""
        with folder.whole_file(path.with_suffix(".npy")) as file:
            np.save(file, rows)
        with folder.whole_file(path) as file:
            file.write(json.dumps(asdict(self)).encode())

    @staticmethod
    def load(path: Path) -> "TarRows":
        fields = json.loads(path.read_bytes())
        return TarRows(shard=Shard(**fields["shard"]), stream=Task(fields["stream"]))


def join_rows(folder: WorkFolder, paths: Sequence[Path], place: Path) -> int:
    """Writes index and manifest into `place`, the manifest last, from the rows of its tars; returns the number of samples.

    Raises UserError where the tars are of several streams. Takes a tar's rows into memory at a time.
    """
    tars = [TarRows.load(path) for path in paths]
    if len(streams := {tar.stream for tar in tars}) > 1:
        raise UserError(f"{place} holds tars of several streams ({', '.join(sorted(streams))}): give each a folder of its own")
    samples = sum(len(_mapped(path)) for path in paths)
    with folder.whole_file(place / INDEX) as file:
        index = Digesting(file)
        np.lib.format.write_array_header_1_0(
            index,
            {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (samples,)},
        )
        for path in paths:
            index.write(_mapped(path).tobytes())
    header = Header(kind=KINDS[tars[0].stream], samples=samples, index_sha256=index.sha256, shards=tuple(tar.shard for tar in tars))
    with folder.whole_file(place / MANIFEST) as file:
        file.write(header.to_json())
    return samples


def _mapped(path: Path) -> Rows:
    return np.load(path.with_suffix(".npy"), mmap_mode="r")
