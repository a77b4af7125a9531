"""A listing: what a stage knows of every sample of a corpus, those that it leaves out among them.

A folder with `listing.json` (what was asked, the chunks with their digests, counts) and `chunks/000000.jsonl` ..., a `Sample` a line.
Every stage reads it as the source `listing`. Media that lie in the folder itself have names relative to it there, so that it can be moved.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from data_tools.sample import MediaPlace, Reason, Sample, as_utf8
from data_tools.stages.work_folder import WORK, Asked, WorkFolder
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.errors import UserError

LISTING = "listing.json"
MEDIA = "media"
"""Of the listing itself, where its stage writes them anew."""
_CHUNKS = "chunks"
VERSION = 2
CHUNK = 128
"""Samples that are looked into in one go, if a stage does not say otherwise."""


@dataclass(frozen=True, kw_only=True)
class ChunkFile:
    """Digest and length of a chunk."""

    name: str
    sha256: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class ListingHeader:
    """What `listing.json` says."""

    asked: dict[str, str]
    kept: dict[str, int]
    """Samples by split and stream, such as "train/image_text"."""
    left_out: dict[str, int]
    """Samples by reason."""
    chunks: tuple[ChunkFile, ...]
    without_caption: dict[str, int] = field(default_factory=dict)
    """Of the pictures and clips that are kept, by split and stream: those of which questions, regions or a class alone are known."""

    def to_json(self) -> bytes:
        return as_utf8(json.dumps({"version": VERSION} | asdict(self), indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def load(folder: Path) -> "ListingHeader":
        """Raises UserError for a listing that is missing, unfinished, damaged or of another version."""
        try:
            fields = json.loads((folder / LISTING).read_bytes())
            if fields.pop("version") != VERSION:
                raise UserError(f"{folder / LISTING} is of another version: run its stage again with this release")
            return ListingHeader(**fields | {"chunks": tuple(ChunkFile(**chunk) for chunk in fields["chunks"])})
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{folder} is no finished listing (no {LISTING}): run the stage that makes it, to its end") from None
        except OSError as error:
            raise UserError(f"cannot read {folder / LISTING}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / LISTING} is not readable ({error}): delete {folder} and run its stage again") from None


def chunk_name(number: int) -> str:
    return f"{_CHUNKS}/{number:06d}.jsonl"


def write_chunk(folder: WorkFolder, number: int, samples: list[Sample]) -> None:
    with folder.whole_file(folder.place / chunk_name(number)) as file:
        file.write(b"".join(sample.to_json() + b"\n" for sample in samples))


def finish_listing(folder: WorkFolder, asked: Asked, names: Sequence[str]) -> None:
    """Writes `listing.json` over chunks that are there."""
    kept: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    without_caption: Counter[str] = Counter()
    files = []
    for name in names:
        path = folder.place / name
        data = path.read_bytes()
        samples = list(_samples(path, data))
        kept.update(f"{sample.split}/{sample.stream}" for sample in samples if not sample.fault)
        without_caption.update(f"{sample.split}/{sample.stream}" for sample in samples if not sample.fault and _lacks_caption(sample))
        left_out.update(sample.fault.reason for sample in samples if sample.fault)
        files.append(ChunkFile(name=name, sha256=hashlib.sha256(data).hexdigest(), samples=len(samples)))
    header = ListingHeader(
        asked=dict(asked),
        kept=dict(sorted(kept.items())),
        left_out={reason.value: left_out[reason] for reason in Reason if left_out[reason]},
        chunks=tuple(files),
        without_caption=dict(sorted(without_caption.items())),
    )
    with folder.whole_file(folder.place / LISTING) as file:
        file.write(header.to_json())


def drop_unusable(folder: Path) -> bool:
    """Whether a finished listing kept no sample, and has been removed: so its stage can be run again once that was mended.

    Raises UserError where it cannot be read. Not to be called while another process works on the folder.
    """
    if not (folder / LISTING).exists() or ListingHeader.load(folder).kept:
        return False
    for name in (_CHUNKS, MEDIA, WORK):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / LISTING).unlink(missing_ok=True)  # last, so that a kill leaves a listing that is dropped next time
    return True


def _lacks_caption(sample: Sample) -> bool:
    return sample.stream is not Task.TEXT and all(map(is_blank, sample.record.captions))


def listing_digest(folder: Path) -> str:
    """SHA-256 of its header, which stands for every sample in it. Raises UserError where it cannot be read."""
    try:
        return hashlib.sha256((folder / LISTING).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {folder / LISTING}: {error.strerror}; probe the corpus first, or run its stage to the end") from None


def read_listing(folder: Path) -> Iterator[Sample]:
    """Every sample, also those that are left out. Raises UserError as `ListingHeader.load` and `read_chunk` do."""
    for chunk in ListingHeader.load(folder).chunks:
        yield from read_chunk(folder, chunk)


def read_chunk(folder: Path, chunk: ChunkFile, numbers: Collection[int] | None = None) -> Iterator[Sample]:
    """The samples of one chunk, or those of ascending numbers in it, from 0. Raises UserError as `chunk_bytes` does."""
    for sample in _samples(folder / chunk.name, chunk_bytes(folder, chunk), numbers):
        yield _placed(folder, sample)


def chunk_bytes(folder: Path, chunk: ChunkFile) -> bytes:
    """The lines of one chunk. Raises UserError for one that is missing or damaged."""
    path = folder / chunk.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; delete {folder} and run its stage again") from None
    if hashlib.sha256(data).hexdigest() != chunk.sha256:
        raise UserError(f"{path} is damaged: delete {folder} and run its stage again")
    return data


def sample_at(folder: Path, number: int, offset: int) -> Sample:
    """The sample whose line begins `offset` bytes into chunk `number`, whose bytes were checked before. Raises UserError where it has
    changed since."""
    path = folder / chunk_name(number)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            (sample,) = _samples(path, file.readline())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; mend that and run the same command again") from None
    return _placed(folder, sample)


def _placed(folder: Path, sample: Sample) -> Sample:
    """With whole names of media that have names relative to the folder."""
    place = folder.absolute()
    return replace(sample, media=_below(place, sample.media), second=_below(place, sample.second))


def _below(folder: Path, media: MediaPlace | None) -> MediaPlace | None:
    return media and replace(media, path=folder / media.path)


def _samples(path: Path, data: bytes, numbers: Collection[int] | None = None) -> Iterator[Sample]:
    try:
        lines = [line for line in data.split(b"\n") if line]
        yield from (Sample.from_json(line) for line in (lines if numbers is None else map(lines.__getitem__, numbers)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a listing's ({type(error).__name__}: {error}): delete its folder and run its stage again") from None
