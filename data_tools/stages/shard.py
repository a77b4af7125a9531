"""`mplug2 data shard`: packs the samples that a listing keeps into tars, shuffled, with the index and manifest that the loader reads.

OUT/SPLIT/STREAM/000000.tar ..., index.npy, manifest.json
OUT/report.json                  how many samples were written, and left out by this and all earlier stages
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sample import MediaPlace, Sample
from data_tools.stages.listing import ListingHeader, drop_unusable, listing_digest
from data_tools.stages.listing_stage import LISTING_SOURCE, Corpus, ListingStage
from data_tools.stages.plan import Packing, TarPlan, plan_tars
from data_tools.stages.pool import Faults, Slot
from data_tools.stages.probe import look_into, read_media
from data_tools.stages.rows import Stored, TarRows, join_rows, row_of
from data_tools.stages.shard_texts import ShardTexts
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.tar_writer import SECOND, TEXTS, TarWriter, ending, member_key
from data_tools.stages.work_folder import WORK, Asked, WorkFolder
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.manifest import content_id
from megatron_mplug2.errors import UserError

REPORT = "report.json"
_ROWS = "rows"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `report.json` says."""

    written: dict[str, int]
    """Samples by folder, such as "train/image_text"."""
    left_out: dict[str, int]
    """Samples by reason."""
    without_caption: dict[str, int] = field(default_factory=dict)
    """Samples by folder, of those that were written: pretraining takes others in their place."""

    @staticmethod
    def load(out: Path) -> "Report":
        """Raises UserError where `out` is no finished folder of shards."""
        try:
            return Report(**json.loads((out / REPORT).read_bytes()))
        except OSError as error:
            raise UserError(f"cannot read {out / REPORT}: {error.strerror}; run `mplug2 data shard` to its end") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{out / REPORT} is not readable ({error}): delete {out} and shard again") from None


def listing_of(corpus: Corpus, out: Path) -> Path:
    """The folder of the listing that `shard` packs: the corpus itself, or what `probe` found in it, inside `out`."""
    return corpus.annotation if corpus.source == LISTING_SOURCE else out / WORK / "probe"


def shard(corpus: Corpus, out: Path, packing: Packing, effort: Effort) -> int:
    """Packs a corpus into `out`; one that is no listing is probed first. What is there already is kept.

    Returns the number of tars of other parts that are missing still: 0 when `out` is finished. Raises UserError as `run_stage` does, where
    no sample is left, and for a part of a corpus that is not probed yet.
    """
    listing = listing_of(corpus, out)
    asked = {"shard-mb": str(packing.shard_mb), "shard-samples": str(packing.shard_samples), "seed": str(packing.seed)}
    if corpus.source != LISTING_SOURCE:
        if not effort.part.whole:
            raise UserError(
                f"--part {effort.part} needs a listing: run `mplug2 data probe {corpus.source} ... --out LISTING` first, "
                "then `mplug2 data shard listing LISTING`"
            )
        if drop_unusable(listing):
            shutil.rmtree(out / WORK, ignore_errors=True)  # of which there was no more
        asked |= corpus.asked
        with WorkFolder(out, effort.part).begun({"stage": ShardStage.name} | asked):
            run_stage(ListingStage(name="probe", corpus=corpus, settings={}, look=look_into), listing, effort)
    else:
        asked |= {"listing sha256": listing_digest(listing)}
    header = ListingHeader.load(listing)
    if not header.kept:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in header.left_out.items()) or "the annotation lists none"
        probed = corpus.source != LISTING_SOURCE
        advice = "check the annotation and --media, then run the command again" if probed else "run the stage that made it anew"
        raise UserError(f"no usable sample in {corpus.annotation} ({reasons}): {advice}")
    return run_stage(ShardStage(listing=listing, packing=packing, asked=asked), out, effort)


@dataclass(frozen=True, kw_only=True)
class ShardStage:
    """See `Stage`; a piece is a tar."""

    listing: Path
    packing: Packing
    asked: Asked
    name = "shard"
    last_file = REPORT

    def pieces(self) -> Iterator[TarPlan]:
        return plan_tars(self.listing, self.packing)

    def file(self, piece: TarPlan) -> str:
        return f"{WORK}/{_ROWS}/{piece.split}/{piece.stream}/{piece.number:06d}.json"

    def make(self, piece: TarPlan, folder: WorkFolder, faults: Faults, slot: Slot) -> None:
        path = folder.place / piece.split / piece.stream / f"{piece.number:06d}.tar"
        rows = []
        with folder.whole_file(path) as file:
            tar = TarWriter(file)
            for number, sample in enumerate(piece.samples(self.listing)):
                if fault := faults.get(number):
                    raise _changed(sample, f"reading it failed twice ({fault.detail or fault.reason})")
                slot.enter(number)
                rows.append(_add(tar, member_key(piece.first + number, sample), piece.number, sample))
            slot.leave()
            shard = tar.close(path.name)
        TarRows(shard=shard, stream=piece.stream).write(folder, folder.place / self.file(piece), np.array(rows))

    def finish(self, folder: WorkFolder, files: Sequence[str]) -> None:
        written = {}
        for rows, group in groupby((folder.place / file for file in files), key=lambda path: path.parent):
            name = rows.relative_to(folder.work / _ROWS)
            written[str(name)] = join_rows(folder, list(group), folder.place / name)
        header = ListingHeader.load(self.listing)
        report = Report(written=written, left_out=header.left_out, without_caption=header.without_caption)
        with folder.whole_file(folder.place / REPORT) as file:
            file.write((json.dumps(asdict(report), indent=1) + "\n").encode())
        shutil.rmtree(folder.work / _ROWS, ignore_errors=True)


def _add(tar: TarWriter, key: str, number: int, sample: Sample) -> Any:
    """Puts a sample into tar `number` of its folder; returns its row."""
    texts = ShardTexts(record=sample.record, stream=sample.stream, meaning=sample.meaning)

    def add(place: MediaPlace | None, before: str) -> Stored | None:
        return tar.add(f"{key}.{before}{ending(place.extension)}", _read(sample, place)) if place else None

    record, media, second = tar.add(f"{key}.{TEXTS}", texts.to_json()), add(sample.media, ""), add(sample.second, SECOND)
    assert sample.look is not None
    row = row_of(key=key, shard=number, texts=texts, record=record, media=media, second=second, facts=sample.look.facts)
    found = content_id("media", media.data + second.data) if media and second else row["media_id"]
    if found != sample.look.media_id:
        raise _changed(sample, "it has other contents")
    return row


def _read(sample: Sample, place: MediaPlace) -> bytes:
    try:
        return read_media(place)
    except OSError as error:
        raise _changed(sample, error.strerror or str(error)) from None
    except BadMedia as error:
        raise _changed(sample, str(error)) from None


def _changed(sample: Sample, how: str) -> UserError:
    names = " and ".join(place.name for place in (sample.media, sample.second) if place)
    return UserError(
        f"{names} (sample {sample.key[:80]}) is not as it was when the corpus was probed: {how}; put it back, or delete what was begun and "
        "probe again"
    )
