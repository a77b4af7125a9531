"""Reads a corpus for its report: counts over all of it, and a keyed choice of samples to show. Memory does not grow with the corpus."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.files_below import files_below, named
from data_tools.keyed_sample import KeyedSample
from data_tools.progress import track
from data_tools.report.tally import StreamTally
from data_tools.sample import Sample
from data_tools.stages.listing import LISTING, ListingHeader, read_listing
from data_tools.stages.shard import REPORT, Report
from data_tools.stages.shard_texts import STREAMS
from data_tools.stages.work_folder import WORK
from data_tools.texts import record_at
from data_tools.verify import stream_folders
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.index_row import FACTS, ROW, map_rows
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, Manifest
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.sampler import Permutation
from megatron_mplug2.errors import UserError

READ_TEXTS = 100_000
"""Samples of a folder of shards whose texts are read; of a listing it is all, since they stand in it."""
SHOWN_FAULTS = 3
"""Samples that are named for each reason to leave one out."""
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A sample that is shown."""

    task: Task
    index: int
    """In its stream; draws are keyed by it."""
    key: str
    record: Record
    read: Callable[[], bytes]
    """Its media; raises OSError."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A folder on disk."""

    name: str
    files: int
    size: int
    """Bytes."""
    fingerprint: str
    """SHA-256 that stands for all its contents."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    streams: dict[str, StreamTally] = field(default_factory=dict)
    """By split and stream, such as "train/image_text"."""
    picks: dict[str, list[Pick]] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Samples by reason."""
    faults: dict[str, KeyedSample[Sample]] = field(default_factory=dict)
    """Some of them, by reason, where a listing names them."""


def read_contents(place: Path, picks: int) -> Contents:
    """Of a listing or a folder of shards; `picks` samples of each stream. Raises UserError for one that is empty, damaged or unfinished."""
    if (place / LISTING).exists():
        return _of_listing(place, picks)
    return _of_shards(place, picks)


def _of_listing(place: Path, picks: int) -> Contents:
    header = ListingHeader.load(place)
    fingerprint = hashlib.sha256((place / LISTING).read_bytes()).hexdigest()
    contents = Contents(left_out=dict(header.left_out))
    chosen: dict[str, KeyedSample[Pick]] = {}
    rows: dict[str, list[NDArray[Any]]] = {}
    for sample in track(read_listing(place), str(place), sum(chunk.samples for chunk in header.chunks)):
        if sample.fault:
            _note_fault(contents, sample)
            continue
        name = f"{sample.split}/{sample.stream}"
        tally = contents.streams.setdefault(name, StreamTally(sample.stream))
        tally.add_record(sample.record)
        rows.setdefault(name, []).append(_row(sample))
        if len(rows[name]) == _ROWS_AT_ONCE:
            tally.add_rows(np.array(rows.pop(name)))
        kept = chosen.setdefault(name, KeyedSample(name, picks))
        kept.offer(_pick(sample, kept.seen))
    for name, rest in rows.items():
        contents.streams[name].add_rows(np.array(rest))
    contents.picks.update({name: kept.items() for name, kept in chosen.items()})
    size = sum((place / chunk.name).stat().st_size for chunk in header.chunks)
    contents.stored.append(Stored(name=str(place), files=len(header.chunks), size=size, fingerprint=fingerprint))
    if not contents.streams and not contents.left_out:
        raise UserError(f"{place} lists no samples: look at its annotation, and run its stage again")
    return contents


def _of_shards(place: Path, picks: int) -> Contents:
    contents = Contents()
    for folder in stream_folders(place):
        name = folder.relative_to(place).as_posix() if folder != place else folder.absolute().name
        manifest = Manifest.load(folder)
        manifest.check_files()
        tally = contents.streams[name] = StreamTally(STREAMS[manifest.kind])
        index = map_rows(folder / INDEX)
        for start in track(range(0, len(index), _ROWS_AT_ONCE), f"{name}, facts"):
            tally.add_rows(index[start : start + _ROWS_AT_ONCE])
        order = Permutation(len(manifest), Purpose.ORDER, "report")(np.arange(min(READ_TEXTS, len(manifest)))).tolist()
        for number in track(sorted(order), f"{name}, texts", len(order)):
            tally.add_record(record_at(manifest, number, folder))
        contents.picks[name] = [_pick_at(manifest, number, folder) for number in order[:picks]]
        header = Header.from_json((folder / MANIFEST).read_bytes())
        size = sum(shard.size for shard in header.shards) + (folder / INDEX).stat().st_size
        contents.stored.append(Stored(name=name, files=len(header.shards), size=size, fingerprint=manifest.fingerprint))
    _add_left_out(contents, place)
    return contents


def _add_left_out(contents: Contents, place: Path) -> None:
    """What `mplug2 data shard` wrote down below a folder; examples where the listing lies beside it."""
    for file in files_below(place, named(REPORT)):
        counts = Counter(contents.left_out)
        counts.update(Report.load(file.parent).left_out)
        contents.left_out.update(counts)
        listing = file.parent / WORK / "probe"
        if (listing / LISTING).exists():
            for sample in read_listing(listing):
                _note_fault(contents, sample)


def _note_fault(contents: Contents, sample: Sample) -> None:
    if sample.fault:
        contents.faults.setdefault(sample.fault.reason, KeyedSample(sample.fault.reason, SHOWN_FAULTS)).offer(sample)


def _pick(sample: Sample, index: int) -> Pick:
    media = sample.media
    return Pick(task=sample.stream, index=index, key=sample.key, record=sample.record, read=media.read if media else bytes)


def _pick_at(manifest: Manifest, number: int, folder: Path) -> Pick:
    record = record_at(manifest, number, folder)
    key = manifest.entry(number).key
    return Pick(task=STREAMS[manifest.kind], index=number, key=key, record=record, read=lambda: manifest.media(number))


def _row(sample: Sample) -> Any:
    """A row of the index as far as the look goes."""
    row = np.zeros((), ROW)
    if sample.look:
        row["media_size"] = sample.look.size
        if facts := sample.look.facts:
            row["codec"] = facts.codec.encode()
            for name in FACTS:
                row[name] = getattr(facts, name)
    return row[()]
