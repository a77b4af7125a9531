"""`mplug2 data filter`: leaves out samples of a listing by their texts, sizes and lengths, duplicates, and what stands in test sets.

Nothing is decoded but test sets that are given as shards, which know no looks. Where duplicates or test sets are asked for, a first look at
the whole listing finds them. Then every chunk is written with what is left out and why.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

from data_tools.sample import Sample
from data_tools.stages.choices import Duplicates
from data_tools.stages.duplicates import Verdict, verdicts
from data_tools.stages.held_out import HeldOut, look_of, shard_folders
from data_tools.stages.listing import (
    LISTING,
    ChunkFile,
    ListingHeader,
    chunk_name,
    finish_listing,
    listing_digest,
    read_chunk,
    read_listing,
    write_chunk,
)
from data_tools.stages.pool import Faults, Slot
from data_tools.stages.rules import Rules, obeying
from data_tools.stages.work_folder import Asked, WorkFolder
from megatron_mplug2.data.manifest import MANIFEST
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FilterChunk:
    """A chunk of the listing and what is to be left out of it, by number in the whole listing."""

    number: int
    first: int
    """Number of its first sample."""
    file: ChunkFile
    verdicts: dict[int, Verdict]
    originals: dict[int, ChunkFile]
    """The chunks, by their first samples' numbers, of the samples that stay instead."""


@dataclass(frozen=True, kw_only=True)
class FilterStage:
    """See `Stage`."""

    listing: Path
    rules: Rules
    duplicates: Duplicates
    look_distance: int
    """Bits in which the perceptual hashes of the same look may differ."""
    tests: tuple[Path, ...]
    name: str = "filter"
    last_file: str = LISTING
    advice: str = "loosen the rules"
    """Where no sample is usable."""

    @property
    def asked(self) -> Asked:
        of_all = {"duplicates": self.duplicates.value, "look distance": str(self.look_distance)}
        tests = {f"test {place.absolute()}": _digest(place) for place in self.tests}
        return of_all | {"listing sha256": listing_digest(self.listing)} | self.rules.settings | tests

    def pieces(self) -> Iterator[FilterChunk]:
        header = ListingHeader.load(self.listing)
        firsts = list(accumulate((chunk.samples for chunk in header.chunks), initial=0))[:-1]
        found = self._verdicts(header)
        for number, (first, file) in enumerate(zip(firsts, header.chunks, strict=True)):
            here = {each: found[each] for each in range(first, first + file.samples) if each in found}
            chunks = {bisect_right(firsts, each.same_as) - 1 for each in here.values() if isinstance(each.same_as, int)}
            originals = {firsts[chunk]: header.chunks[chunk] for chunk in sorted(chunks)}
            yield FilterChunk(number=number, first=first, file=file, verdicts=here, originals=originals)

    def file(self, piece: FilterChunk) -> str:
        return chunk_name(piece.number)

    def make(self, piece: FilterChunk, folder: WorkFolder, faults: Faults, slot: Slot) -> None:
        names = _names(piece, self.listing)
        looked = []
        for number, sample in enumerate(read_chunk(self.listing, piece.file), piece.first):
            slot.enter(number)
            sample = self._obeying(sample)
            if verdict := piece.verdicts.get(number):
                sample = sample.without(verdict.reason, names[verdict.same_as])
            looked.append(sample)
        slot.leave()
        write_chunk(folder, piece.number, looked)

    def finish(self, folder: WorkFolder, files: Sequence[str]) -> None:
        finish_listing(folder, {"stage": self.name} | dict(self.asked), files)

    def _verdicts(self, header: ListingHeader) -> dict[int, Verdict]:
        """Of the whole listing. Each part has to look at all of it for them; without them a part reads its own chunks alone."""
        if self.duplicates is Duplicates.KEEP and not self.tests:
            for sample in chain.from_iterable(read_chunk(self.listing, chunk) for chunk in header.chunks[:1]):
                if not sample.fault:
                    look_of(sample)  # a listing without looks is refused in any case; one chunk speaks for all
            return {}
        obeying_samples = (self._obeying(sample) for sample in read_listing(self.listing))
        return verdicts(obeying_samples, self.duplicates, self.look_distance, HeldOut(self.tests, self.look_distance))

    def _obeying(self, sample: Sample) -> Sample:
        return sample if sample.fault else obeying(sample, self.rules)


def _names(piece: FilterChunk, listing: Path) -> dict[int | str, str]:
    """For a person, what each verdict's sample is the same as: a key in the listing, or the name of a test sample."""
    wanted = {verdict.same_as for verdict in piece.verdicts.values()}
    names: dict[int | str, str] = {name: name for name in wanted if isinstance(name, str)}
    for first, file in piece.originals.items():
        numbers = [number for number in range(file.samples) if first + number in wanted]
        samples = read_chunk(listing, file, numbers)
        names |= {first + number: sample.key for number, sample in zip(numbers, samples, strict=True)}
    return names


def _digest(place: Path) -> str:
    """Of a listing, or of the manifests of shards, which stand for all that is below. Raises UserError where they cannot be read."""
    if (place / LISTING).exists():
        return listing_digest(place)
    digest = hashlib.sha256()
    try:
        for folder in shard_folders(place):
            digest.update((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror or error}") from None
    return digest.hexdigest()
