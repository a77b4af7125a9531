"""Which samples of a whole corpus are left out because they stand in it already, or in a test set."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from data_tools.sample import Reason, Sample
from data_tools.splits import Split
from data_tools.stages.choices import Duplicates
from data_tools.stages.held_out import HeldOut, look_of
from data_tools.stages.near import NearHashes
from megatron_mplug2.config.schedule import Task

_STREAMS = tuple(Task)
_ORDER = (Split.TEST, Split.VALIDATION, Split.TRAIN)
"""What stands in two splits stays in the first of these."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why a sample is left out."""

    reason: Reason
    same_as: int | str
    """Number of the sample in the same listing that stays, or the name of a test sample."""


@dataclass
class _Rows:
    """The samples of a split, in order, in 25 bytes each."""

    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    streams: "array[int]" = field(default_factory=lambda: array("B"))
    media: "array[int]" = field(default_factory=lambda: array("Q"))
    looks: "array[int]" = field(default_factory=lambda: array("Q"))


def verdicts(samples: Iterable[Sample], duplicates: Duplicates, look_distance: int, held_out: HeldOut) -> dict[int, Verdict]:
    """The samples to leave out, by their numbers from 0; those that are left out already are not looked at.

    The first in order stays, of test before validation before train. Of a test set only what is not in the split `test` itself is kept out.
    """
    rows = {split: _Rows() for split in _ORDER}
    found: dict[int, Verdict] = {}
    for number, sample in enumerate(samples):
        if not sample.fault:
            look, row = look_of(sample), rows[sample.split]
            if sample.split is not Split.TEST and (holder := held_out.holder(sample.stream, look)):
                found[number] = Verdict(reason=Reason.IN_TEST_SET, same_as=holder)
                continue
            row.numbers.append(number)
            row.streams.append(_STREAMS.index(sample.stream))
            row.media.append(look.media_id)
            row.looks.append(0 if look.halves else look.look_hash)  # pairs that share a picture are not alike
    seen = _Seen(duplicates, look_distance)
    for row in rows.values():
        for number, code, media_id, look_hash in zip(row.numbers, row.streams, row.media, row.looks, strict=True):
            if verdict := seen.verdict(number, _STREAMS[code], media_id, look_hash):
                found[number] = verdict
    return found


class _Seen:
    """The samples that stay so far."""

    def __init__(self, duplicates: Duplicates, look_distance: int) -> None:
        self._duplicates = duplicates
        self._media: dict[int, int] = {}
        self._looks = {stream: NearHashes(look_distance) for stream in Task}

    def verdict(self, number: int, stream: Task, media_id: int, look_hash: int) -> Verdict | None:
        """None for a sample that stays, and is remembered. `look_hash` 0 (text, a flat picture) is like no other."""
        if self._duplicates is Duplicates.KEEP:
            return None
        if (first := self._media.setdefault(media_id, number)) != number:
            return Verdict(reason=Reason.DUPLICATE_CONTENT, same_as=first)
        if self._duplicates is Duplicates.LOOK and look_hash:
            if (near := self._looks[stream].near(look_hash)) is not None:
                return Verdict(reason=Reason.DUPLICATE_LOOK, same_as=near)
            self._looks[stream].add(look_hash, number)
        return None
