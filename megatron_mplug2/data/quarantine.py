"""What happens to a sample that cannot be used: another one takes its place, and it is written down.

Bad content is replaced by a pure function of the position in the stream, so every rank, layout and resume finds the same. A fault of the
storage may pass: it is tried again, then recorded, and what is recorded is repeated on a resume.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.sampler import Int64s, Order, Permutation
from megatron_mplug2.errors import UserError

LEDGER = "quarantine.jsonl"
ATTEMPTS = 16
"""Substitutes that are tried for one position; with a twentieth of them bad, all are in one case of 10^21."""
RETRY_PAUSES_S = (0.1, 0.4)
"""Pauses before a read that failed is tried again."""
FEWEST_SEEN = 100
"""Samples before the share of bad ones counts."""


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Fault(StrEnum):
    CONTENT = "content"
    """The sample itself: it is bad wherever and whenever it is read."""
    STORAGE = "storage"
    """Reading it, after several tries."""


class BadSample(Exception):  # noqa: N818 (a sample's property, found while reading it)
    """A sample's texts or media cannot be used. The text is the reason."""


class Substitution(BaseModel):
    """One event: a line of the ledger, and, where storage was at fault, a part of the data state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split
    task: Task
    position: int = Field(ge=0)
    """In the stream."""
    index: int = Field(ge=0)
    """Of the bad sample, in the stream's manifest."""
    key: str
    """The bad sample's name."""
    fault: Fault
    """STORAGE if it had a part in the choice of the substitute."""
    reason: str
    attempt: int = Field(gt=0)
    """Which of the position's candidates took its place, from 1 on."""
    substitute: int = Field(ge=0)
    """Its index in the manifest."""

    @property
    def event(self) -> tuple[Split, Task, int]:
        return self.split, self.task, self.position


Agree = Callable[[tuple[Substitution, ...]], tuple[Substitution, ...]]
"""A collective: every rank gives what it found and gets what all ranks found, the same on each."""


def settled(found: tuple[Substitution, ...]) -> tuple[Substitution, ...]:
    """One of all ranks' findings for each position, the last candidate that any rank had to go on to; in order of position."""
    best: dict[tuple[Split, Task, int], Substitution] = {}
    for substitution in sorted(found, key=lambda one: (one.event, one.attempt, one.fault, one.reason)):
        best[substitution.event] = substitution
    return tuple(best.values())


def candidates(order: Order, *, seed: int, task: Task, start: int, global_batch: int, position: int) -> Iterator[int]:
    """Substitutes for a position of the global batch that begins at `start`, best first: none is in the global batch.

    Positions of a global batch take turns in one keyed permutation of the rest of the manifest, so no two get the same one before the rest
    is used up. Raises UserError when none is left or ATTEMPTS were tried.
    """
    batch = order.at(np.arange(start, start + global_batch)).indices
    rest = order.size - len(np.unique(batch))
    permutation = Permutation(order.size, Purpose.SUBSTITUTE, seed, task, start)
    own = range(position - start, rest, global_batch)
    after = range(rest)[(position - start) % rest if rest else 0 :]
    turns = [*own, *after, *range(rest)][:ATTEMPTS]
    others = _others(permutation, order.size, batch, max(turns, default=0) + 1)
    for turn in turns:
        yield int(others[turn])
    raise UserError(
        f"{len(turns)} samples in a row, tried in place of a bad one at position {position} of {task}, are bad too or cannot be read: "
        f"look into {LEDGER} in the run folder, and check the corpus and its storage"
    )


def _others(permutation: Permutation, size: int, batch: Int64s, count: int) -> Int64s:
    """The first `count` elements of a permutation that are not in the batch."""
    elements = permutation(np.arange(min(count + len(batch), size)))
    return elements[~np.isin(elements, batch)]


def retried[T](read: Callable[[], T]) -> T:
    """Reads, and tries again after pauses where reading raises OSError; raises the last one."""
    for pause in RETRY_PAUSES_S:
        try:
            return read()
        except OSError:
            time.sleep(pause)
    return read()


class Ledger:
    """`quarantine.jsonl` in the run folder, one JSON object an event, each event once. Only one rank of a run holds it."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / LEDGER
        self._events = _read(self.path)

    @property
    def events(self) -> tuple[Substitution, ...]:
        return tuple(self._events.values())

    def write(self, found: tuple[Substitution, ...]) -> None:
        """Adds the events that are new. A kill leaves whole lines, except perhaps the last, which is then ignored."""
        new = {substitution.event: substitution for substitution in found if substitution.event not in self._events}
        if not new:
            return
        self._events |= new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size > 0
        lines = "".join(json.dumps(substitution.model_dump(mode="json"), ensure_ascii=False) + "\n" for substitution in new.values())
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + lines if torn else lines)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> dict[tuple[Split, Task, int], Substitution]:
    events: dict[tuple[Split, Task, int], Substitution] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            substitution = Substitution.model_validate_json(line)
        except ValidationError:
            continue
        events[substitution.event] = substitution
    return events


def check_limit(*, substituted: int, seen: int, limit: float, run_dir: Path) -> None:
    """Raises UserError where more than a share `limit` of the samples were substituted, once FEWEST_SEEN were seen."""
    if seen >= FEWEST_SEEN and substituted > limit * seen:
        raise UserError(
            f"{substituted} of {seen} samples were bad and substituted, more than data.bad_sample_limit={limit}: "
            f"{run_dir / LEDGER} names them; mend the corpus or raise the limit"
        )
