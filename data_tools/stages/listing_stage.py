"""A stage that looks at a corpus a chunk of samples at a time and writes a listing."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from data_tools.sample import Sample
from data_tools.sources.base import OfFiles, files_of
from data_tools.sources.registry import source as named
from data_tools.splits import Split
from data_tools.stages.listing import CHUNK, LISTING, chunk_name, finish_listing, listing_digest, write_chunk
from data_tools.stages.pool import Faults, Slot
from data_tools.stages.work_folder import Asked, WorkFolder
from megatron_mplug2.errors import UserError

LISTING_SOURCE = "listing"
"""Of what an earlier stage wrote."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus as a person names it."""

    source: str
    """Name of its layout."""
    annotation: Path
    media: Path
    split: Split

    def samples(self) -> Iterator[Sample]:
        """In the corpus's order. Raises UserError for an unknown source, and as the source does."""
        # Absolute, since a listing may be read from another folder; some annotations are themselves the folder or tar that holds the media.
        return named(self.source, self.split).samples(self.annotation.absolute(), self.media.absolute())

    @property
    def asked(self) -> Asked:
        """Where the corpus lies, and a digest of what is read: enough to tell another corpus, or one that has changed, from the one begun
        with, since samples are counted in their order. A listing is the same wherever it lies. Raises UserError as the source does."""
        asked = {"source": self.source, "split": self.split.value}
        if self.source == LISTING_SOURCE:
            there = (self.annotation / LISTING).exists()  # the source tells it better where it is not
            return asked | ({"listing sha256": listing_digest(self.annotation)} if there else {})
        read = named(self.source, self.split)
        annotation, media = self.annotation.absolute(), self.media.absolute()
        files = read.files(annotation, media) if isinstance(read, OfFiles) else files_of(annotation)
        return asked | {"annotation": str(annotation), "media": str(media), "files that are read": _digest(files)}


@dataclass(frozen=True, kw_only=True)
class Chunk:
    number: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where what is written of a sample goes."""

    folder: WorkFolder
    chunk: int
    number: int
    """In its chunk."""


Look = Callable[[Sample, Spot], Sample]
"""Looks into a sample that is not left out yet; gives it with what was found, or with a fault."""


@dataclass(frozen=True, kw_only=True)
class ListingStage:
    """See `Stage`."""

    name: str
    corpus: Corpus
    settings: Asked
    look: Look
    chunk: int = CHUNK
    """Samples of a piece."""
    last_file: str = LISTING

    @property
    def asked(self) -> Asked:
        return dict(self.corpus.asked) | dict(self.settings)

    @property
    def advice(self) -> str:
        """Where no sample is usable."""
        corpus = self.corpus
        if corpus.source == LISTING_SOURCE:
            return f"look into {corpus.annotation} and for the media that it names"
        return f"check the annotation and --media ({corpus.media})"

    def pieces(self) -> Iterator[Chunk]:
        samples = self.corpus.samples()
        for number in count():
            if not (chunk := tuple(islice(samples, self.chunk))):
                if number == 0:
                    raise UserError(f"no sample in {self.corpus.annotation}: it is empty, or not what `{self.corpus.source}` reads")
                return
            yield Chunk(number=number, samples=chunk)

    def file(self, piece: Chunk) -> str:
        return chunk_name(piece.number)

    def make(self, piece: Chunk, folder: WorkFolder, faults: Faults, slot: Slot) -> None:
        looked = []
        for number, sample in enumerate(piece.samples):
            slot.enter(number)
            if sample.fault:
                looked.append(sample)
            elif fault := faults.get(number):
                looked.append(sample.without(fault.reason, fault.detail))
            else:
                looked.append(self.look(sample, Spot(folder=folder, chunk=piece.number, number=number)))
        slot.leave()
        write_chunk(folder, piece.number, looked)

    def finish(self, folder: WorkFolder, files: Sequence[str]) -> None:
        finish_listing(folder, {"stage": self.name} | dict(self.asked), files)


def _digest(files: Iterable[Path]) -> str:
    """Of names, sizes in bytes and times of change, short for a person; of a file that is not there its name alone."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        try:
            stat = path.stat()
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:  # the source tells it better
            state = ""
        digest.update(os.fsencode(path) + b"\0" + state.encode() + b"\0")
    return digest.hexdigest()
