"""What happens to a sample that cannot be used: another one takes its place.

Bad content is replaced by a pure function of the position in the stream, so every rank, layout and resume finds the same. A fault of the
storage may pass: reading is tried again, then the substitution is recorded, and what is recorded is repeated on a resume.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.ledger import LEDGER
from megatron_mplug2.data.sampler import Int64s, Order, Permutation
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault
from megatron_mplug2.errors import BrokenDataError

ATTEMPTS = 16
"""Substitutes of the same dataset that are tried for one position: with a twentieth of the samples bad, all of them are in one case of
10^20."""
RETRY_PAUSES_S = (0.1, 0.4)
"""Pauses before a read that failed is tried again."""
FEWEST_SEEN = 100
"""Samples before the share of bad ones counts."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a sample cannot be used."""

    fault: Fault
    reason: str


class BadSample(Exception):  # noqa: N818 (a sample's property, found while reading it)
    """A sample's texts or media cannot be used. The text is the reason."""


def candidates(order: Order, *, seed: int, task: Task, start: int, global_batch: int, position: int) -> Iterator[int]:
    """Substitutes for a position of the global batch that begins at `start`, best first.

    ATTEMPTS at most are of the same dataset and none of them in the global batch. Its positions take turns in one keyed permutation of the
    rest of the dataset, so no two get the same sample before the rest is used up. Where the rest has fewer than ATTEMPTS samples, which may
    all be bad or none, as many follow from the stream's other datasets, found in the same way, and from the batch itself: a sample that
    comes twice skews a batch less than a run that ends.
    """
    drawn = order.at(np.arange(start, start + global_batch)).indices
    place = position - start
    dataset = order.dataset(int(drawn[place]))
    batch = np.unique(drawn[(drawn >= dataset.start) & (drawn < dataset.stop)]) - dataset.start
    permutation = Permutation(len(dataset), Purpose.SUBSTITUTE, seed, task, start)
    rest = len(dataset) - len(batch)
    for turn in islice(_turns(place, rest, global_batch), ATTEMPTS):
        yield dataset[_other(permutation, batch, turn, len(dataset))]
    if rest < ATTEMPTS:
        of_others = Permutation(order.size, Purpose.SUBSTITUTE, seed, task, start, "other datasets")
        passed_over = np.union1d(np.arange(dataset.start, dataset.stop), drawn)
        turns = _turns(place, order.size - len(passed_over), global_batch)
        others = (_other(of_others, passed_over, turn, order.size) for turn in turns)
        following = np.roll(drawn, -place)
        yield from islice(chain(others, following[following != drawn[place]].tolist()), ATTEMPTS)


def _turns(place: int, rest: int, global_batch: int) -> Iterator[int]:
    """Places in the permutation of `rest` samples that one place of the batch takes, some of them again at the end."""
    return chain(range(place, rest, global_batch), range(place % max(rest, 1), rest), range(rest))


def _other(permutation: Permutation, without: Int64s, turn: int, size: int) -> int:
    """Number `turn` of a permutation's elements that are not in `without`."""
    elements = permutation(np.arange(min(turn + len(without) + 1, size)))
    return int(elements[~np.isin(elements, without)][turn])


_pauses: ContextVar[Sequence[float]] = ContextVar("pauses", default=RETRY_PAUSES_S)


@contextmanager
def tried_once() -> Iterator[None]:
    """Within it `retried` does not try again: for who reads many samples, and pauses once for all that failed."""
    before = _pauses.set(())
    try:
        yield
    finally:
        _pauses.reset(before)


def retried(read: Callable[[], T]) -> T:
    """Reads, and tries again after pauses where that raises OSError; raises the last one."""
    for pause in _pauses.get():
        try:
            return read()
        except OSError:
            time.sleep(pause)
    return read()


def check_limit(split: Split, *, substituted: int, seen: int, limit: float, run_dir: Path) -> None:
    """Raises BrokenDataError where more than a share `limit` of a split's samples were substituted, once FEWEST_SEEN were seen."""
    if seen >= FEWEST_SEEN and substituted > limit * seen:
        raise BrokenDataError(
            f"{substituted} of {seen} samples of data.{split} were bad and substituted, more than data.bad_sample_limit={limit}: "
            f"{run_dir / LEDGER} names them; mend the corpus or raise the limit"
        )
