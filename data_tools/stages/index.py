"""`mplug2 data index`: makes the index and the manifest of a folder of tars that `mplug2 data shard` wrote, the same that it made.

For tars that were copied without them, put together from several folders, or whose index is damaged. Tars of other programs have their
texts in other places: `mplug2 data shard webdataset` packs them anew.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.stages.digest import file_sha256
from data_tools.stages.pool import Faults, Slot
from data_tools.stages.rows import TarRows, join_rows, row_of
from data_tools.stages.shard_texts import ShardTexts
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.tar_reader import TarSample, tar_samples
from data_tools.stages.work_folder import WORK, Asked, WorkFolder
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.manifest import MANIFEST, Shard
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.probing import clip_facts, picture_facts
from megatron_mplug2.errors import UserError

_WORK = f"{WORK}-index"
"""In the folder of tars: a folder for each set of tars that was begun with."""


def index(place: Path, effort: Effort) -> int:
    """Writes index and manifest into `place`, a folder of tars of one stream; returns the number of tars of other parts that are missing.

    Where a manifest is there, it takes away what is left of the work on it, and does nothing else. Raises UserError as `run_stage` does,
    where there are no tars, and for tars that `mplug2 data shard` did not write.
    """
    if not (place / MANIFEST).exists():
        tars = _tars(place)
        digest = hashlib.sha256(repr(tars).encode()).hexdigest()
        stage = IndexStage(place=place, tars=tuple(name for name, _, _ in tars), asked={"tars": digest})
        try:
            if left := run_stage(stage, place / _WORK / digest[:16], effort):
                return left
        except (UserError, OSError):  # with the manifest there, of what another part has just taken away as done
            if not (place / MANIFEST).exists():
                raise
    shutil.rmtree(place / _WORK, ignore_errors=True)
    return 0


@dataclass(frozen=True, kw_only=True)
class Tar:
    """A piece of the stage."""

    path: Path
    number: int


@dataclass(frozen=True, kw_only=True)
class IndexStage:
    """See `Stage`; a piece is a tar. Its folder lies two below that of the tars."""

    place: Path
    tars: tuple[str, ...]
    """Names, in order."""
    asked: Asked
    name = "index"
    last_file = f"../../{MANIFEST}"

    def pieces(self) -> Iterator[Tar]:
        return (Tar(path=self.place / name, number=number) for number, name in enumerate(self.tars))

    def file(self, piece: Tar) -> str:
        return f"{piece.number:06d}.json"

    def make(self, piece: Tar, folder: WorkFolder, faults: Faults, slot: Slot) -> None:
        rows, streams = [], set()
        for number, sample in enumerate(tar_samples(piece.path)):
            if fault := faults.get(number):
                raise UserError(f"{piece.path}: {sample.key}: {fault.reason} {fault.detail}: take it out of the tar")
            slot.enter(number)
            texts = _texts(piece.path, sample)
            streams.add(texts.stream)
            rows.append(_row(piece, sample, texts))
        slot.leave()
        if len(streams) != 1:
            raise UserError(f"{piece.path} holds {'several streams' if streams else 'no samples'}: take it out of its folder")
        shard = Shard(name=piece.path.name, size=piece.path.stat().st_size, sha256=file_sha256(piece.path))
        TarRows(shard=shard, stream=streams.pop()).write(folder, folder.place / self.file(piece), np.array(rows))

    def finish(self, folder: WorkFolder, files: Sequence[str]) -> None:
        paths = [folder.place / file for file in files]
        join_rows(folder, paths, self.place)
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_suffix(".npy").unlink(missing_ok=True)


def _tars(place: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each tar, by name."""
    try:
        found = [(path.name, path.stat()) for path in sorted(place.iterdir()) if path.suffix == ".tar" and path.is_file()]
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror}") from None
    if not found:
        raise UserError(f"{place} holds no tars: name a folder SPLIT/STREAM that `mplug2 data shard` wrote")
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _texts(path: Path, sample: TarSample) -> ShardTexts:
    try:
        return ShardTexts.from_json(sample.record.data)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: {sample.key}.json has not the texts as `mplug2 data shard` writes them: pack another program's tars with "
            f"`mplug2 data shard webdataset {path.parent} --out DIR`"
        ) from None


def _row(tar: Tar, sample: TarSample, texts: ShardTexts) -> object:
    try:
        facts = _facts(texts.stream, sample)
    except BadMedia as error:
        raise UserError(f"{tar.path}: {sample.key}: {error}; copy the tar anew, or take the sample out of it") from None
    return row_of(
        key=sample.key, shard=tar.number, texts=texts, record=sample.record, media=sample.media, second=sample.second, facts=facts
    )


def _facts(stream: Task, sample: TarSample) -> MediaFacts | None:
    """Raises BadMedia, also where the stream and the files do not fit each other."""
    if (stream is Task.TEXT) != (sample.media is None):
        raise BadMedia(f"a sample of {stream} {'with' if sample.media else 'without'} a picture or clip")
    if sample.media is None:
        return None
    return picture_facts(sample.media.data) if stream is Task.IMAGE_TEXT else clip_facts(sample.media.data)
