"""A stage that looks at a corpus a chunk of samples at a time and writes a listing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from data_tools.sample import Sample
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
        """Names and size of what is read: enough to tell another corpus, or one that has grown, from the one begun with. A listing is the
        same wherever it lies."""
        asked = {"source": self.source, "split": self.split.value} | dict(_state(self.annotation))
        if self.source == LISTING_SOURCE:
            return asked
        return asked | {"annotation": str(self.annotation.absolute()), "media": str(self.media.absolute())}


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


def _state(annotation: Path) -> Asked:
    """What changes with a file or a listing; nothing for other folders and where there is nothing."""
    if annotation.is_dir():
        return {"listing sha256": listing_digest(annotation)} if (annotation / LISTING).exists() else {}
    try:
        return {"annotation bytes": str(annotation.stat().st_size)}
    except OSError:  # the source tells it better
        return {}
