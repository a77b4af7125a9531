"""Which samples of a listing go into which tar, and in which order: a pure function of the listing and of how it is packed."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.progress import track
from data_tools.sample import Sample
from data_tools.splits import Split
from data_tools.stages.listing import ListingHeader, chunk_bytes, sample_at
from data_tools.stages.tar_writer import BYTES_A_MEMBER, BYTES_AT_END
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.sampler import Permutation
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How samples are dealt out to tars."""

    shard_mb: int = 256
    """Most MiB of a tar; a larger sample has one of its own."""
    shard_samples: int = 10_000
    """Most samples of a tar."""
    seed: int = 0
    """Of the order of the samples."""


@dataclass(frozen=True, kw_only=True)
class TarPlan:
    """A tar that is to be written."""

    split: Split
    stream: Task
    number: int
    """In its folder."""
    first: int
    """Place of its first sample in its folder."""
    chunks: NDArray[np.int32]
    """[samples] numbers of the listing's chunks that they stand in."""
    offsets: NDArray[np.int64]
    """[samples] bytes before their lines there."""

    def samples(self, listing: Path) -> Iterator[Sample]:
        """Raises UserError where the listing has changed."""
        return (sample_at(listing, int(chunk), int(offset)) for chunk, offset in zip(self.chunks, self.offsets, strict=True))


@dataclass(frozen=True)
class _Places:
    """Where samples stand, and how much of a tar they take: 20 bytes a sample, since there may be many millions."""

    chunks: "array[int]" = field(default_factory=lambda: array("i"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))


def plan_tars(listing: Path, packing: Packing) -> Iterator[TarPlan]:
    """The tars of all splits and streams. Raises UserError as `read_listing` does."""
    for (split, stream), places in _places(listing).items():
        count = len(places.chunks)
        if not count:
            continue
        order = Permutation(count, Purpose.SHARD, packing.seed, split, stream)(np.arange(count))
        chunks, offsets = np.frombuffer(places.chunks, np.int32)[order], np.frombuffer(places.offsets, np.int64)[order]
        cuts = _cuts(np.frombuffer(places.sizes, np.int64)[order], packing)
        for number, (first, end) in enumerate(pairwise(cuts)):
            yield TarPlan(split=split, stream=stream, number=number, first=first, chunks=chunks[first:end], offsets=offsets[first:end])


def _cuts(sizes: NDArray[np.int64], packing: Packing) -> list[int]:
    """Where tars begin among samples of `sizes` bytes, and the end of the last one."""
    ends = np.cumsum(sizes)
    room = (packing.shard_mb << 20) - BYTES_AT_END
    cuts = [0]
    while (first := cuts[-1]) < len(sizes):
        full = int(np.searchsorted(ends, ends[first] - sizes[first] + room, side="right"))
        cuts.append(min(max(full, first + 1), first + packing.shard_samples, len(sizes)))
    return cuts


def _places(listing: Path) -> dict[tuple[Split, Task], _Places]:
    """Of the samples that are kept, in the listing's order."""
    found = {(split, stream): _Places() for split in Split for stream in Task}
    chunks = ListingHeader.load(listing).chunks
    for number, chunk in enumerate(track(chunks, f"reading {listing.name}", len(chunks))):
        offset = 0
        for line in chunk_bytes(listing, chunk).splitlines(keepends=True):
            try:
                fields = json.loads(line)
                if fields["fault"] is None:
                    places = found[fields["split"], fields["stream"]]
                    places.chunks.append(number)
                    places.offsets.append(offset)
                    places.sizes.append(_most_bytes(fields, line))
            except (ValueError, KeyError, TypeError) as error:
                what = f"{type(error).__name__}: {error}"
                raise UserError(f"{listing / chunk.name} is no listing's ({what}): delete its folder and run its stage again") from None
            offset += len(line)
    return found


def _most_bytes(fields: dict[str, object], line: bytes) -> int:
    """Of a sample in a tar: its texts are a part of its line."""
    look = fields["look"]
    assert isinstance(look, dict)
    members = 1 + (fields["media"] is not None) + (fields["second"] is not None)
    return int(look["size"]) + len(line) + members * BYTES_A_MEMBER
