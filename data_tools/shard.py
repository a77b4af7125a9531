"""From a corpus to shards: looks into every sample, leaves out what cannot be used, and reports it."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from data_tools.fresh_folder import fresh_folder
from data_tools.progress import track
from data_tools.sample import Reason, Sample
from data_tools.shards import ShardWriter
from data_tools.sources.base import Source
from data_tools.splits import Split
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.decode import FULL_VIEW, BadMedia, decode_image, decode_video
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError

REPORT = "report.json"
_KINDS = {Task.TEXT: MediaKind.TEXT, Task.IMAGE_TEXT: MediaKind.IMAGE, Task.VIDEO_TEXT: MediaKind.VIDEO}
_TRIED_FRAMES = 8
"""Frames of a clip that must be decodable, spread over its length."""
_TRIED_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Skipped:
    split: Split
    key: str
    file: str
    fault: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `report.json` says."""

    written: dict[str, int]
    """Samples by folder, such as "train/image_text"."""
    skipped: tuple[Skipped, ...]

    @property
    def faults(self) -> dict[Reason, int]:
        """Samples left out, by reason."""
        return dict(Counter(sample.fault for sample in self.skipped))


def shard(source: Source, annotation: Path, media: Path, out: Path) -> Report:
    """Writes `out`/SPLIT/STREAM folders and `out`/report.json, all or nothing.

    Raises UserError when `out` exists, the annotation cannot be read, or no sample is left.
    """
    writers: dict[str, ShardWriter] = {}
    skipped: list[Skipped] = []
    with fresh_folder(out) as folder:
        for sample, looked in track(_look_into(source.samples(annotation, media)), "samples"):
            if isinstance(looked, Skipped):
                skipped.append(looked)
                continue
            name = f"{sample.split}/{sample.stream}"
            if name not in writers:
                writers[name] = ShardWriter(folder / name, _KINDS[sample.stream])
            suffix = sample.media.extension if sample.media else ""
            writers[name].add(sample.key, suffix, looked, _stripped(sample.record), sample.meaning)
        report = Report(written={name: writer.close() for name, writer in writers.items()}, skipped=tuple(skipped))
        if not writers:
            reasons = ", ".join(f"{count} x {fault}" for fault, count in report.faults.items()) or "the annotation lists none"
            raise UserError(f"no usable sample in {annotation} ({reasons}): check the annotation and --media {media}")
        summary = {"written": report.written, "faults": report.faults, "skipped": [asdict(sample) for sample in skipped]}
        (folder / REPORT).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return report


def _look_into(samples: Iterator[Sample]) -> Iterator[tuple[Sample, bytes | Skipped]]:
    """Each sample with its media's bytes (none for text) or the reason to leave it out. Decoders run in threads, a few samples ahead."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(samples, 64)):
            yield from zip(batch, pool.map(_look_at, batch), strict=True)


def _look_at(sample: Sample) -> bytes | Skipped:
    if sample.fault:
        return _skip(sample, sample.fault.reason, sample.fault.detail)
    record = _stripped(sample.record)
    if not (record.captions or record.text or record.questions or record.regions or record.label):
        return _skip(sample, Reason.NO_TEXT, "")
    if sample.media is None:
        return b""
    try:
        data = sample.media.read()
        if sample.stream is Task.IMAGE_TEXT:
            decode_image(data, _TRIED_SIDE, FULL_VIEW)
        else:
            decode_video(data, _TRIED_FRAMES, _TRIED_SIDE, FULL_VIEW, None)
    except FileNotFoundError:
        return _skip(sample, Reason.MISSING, "")
    except OSError as error:
        return _skip(sample, Reason.UNREADABLE, error.strerror or str(error))
    except BadMedia as error:
        return _skip(sample, Reason.UNREADABLE, str(error))
    return data


def _skip(sample: Sample, fault: Reason, detail: str) -> Skipped:
    return Skipped(split=sample.split, key=sample.key, file=sample.media.name if sample.media else "", fault=fault, detail=detail)


def _stripped(record: Record) -> Record:
    """Without blank captions and without questions that lack a text or an answer."""
    return replace(
        record,
        captions=_plain(record.captions),
        questions=tuple(question for question in record.questions if question.question.strip() and question.answer.strip()),
        text=record.text.strip(),
    )


def _plain(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text.strip() for text in texts if text.strip())
