"""Which sample is in work, where a process that is not at work can see it: in shared memory."""

import mmap
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from megatron_mplug2.config.schedule import Task

_SLOT_SIZE = 4096
_HEAD = 16
"""Bytes of a slot before the note: the time, then the note's length."""


@dataclass(frozen=True, kw_only=True)
class SampleInWork:
    """A sample at its place in a stream."""

    task: Task
    dataset: str
    """Name of the folder of shards."""
    key: str
    index: int
    """In the stream's manifest."""
    position: int
    """In the stream; in an evaluation, the index."""

    def __str__(self) -> str:
        return f"sample {self.key} of {self.task} (dataset {self.dataset}, index {self.index}, position {self.position})"


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a process said last of its work."""

    sample: SampleInWork | None
    """None between samples."""
    since: float
    """`time.monotonic()` of then, one clock for all processes of a machine; 0 for a note that is not whole."""


class Slot:
    """Memory that a process shares with those that it forks, for one note at a time."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOT_SIZE)
        # Written a whole number at a time: `struct.pack_into` shows zeros in between.
        self._since = memoryview(self._memory)[:8].cast("d")
        self._size = memoryview(self._memory)[8:_HEAD].cast("q")
        self.write(None)

    def write(self, sample: SampleInWork | None) -> None:
        content = pickle.dumps(sample)
        self._since[0] = 0.0  # not whole until it has a time
        self._size[0] = len(content)
        self._memory[_HEAD : _HEAD + len(content)] = content
        self._since[0] = time.monotonic()

    def read(self) -> Note:
        since = self._since[0]
        content = self._memory[_HEAD : _HEAD + self._size[0]]
        if since == 0 or self._since[0] != since:
            return Note(sample=None, since=0)
        return Note(sample=pickle.loads(content), since=since)


class LostDecoder(Exception):  # noqa: N818 (what happened, not a defect)
    """A sample ended every process that tried to read it. The text is how."""


class Watch:
    """Told by a computation which sample it works on."""

    def __init__(self, slot: Slot | None = None, given_up: Mapping[SampleInWork, str] | None = None) -> None:
        """`given_up`: samples that must not be tried again, and why. Without a slot nobody watches."""
        self._slot = slot
        self._given_up = given_up or {}

    @property
    def watched(self) -> bool:
        return self._slot is not None

    @contextmanager
    def working_on(self, sample: SampleInWork) -> Iterator[None]:
        """Raises LostDecoder for a sample that was given up."""
        if sample in self._given_up:
            raise LostDecoder(self._given_up[sample])
        if self._slot is None:
            yield
            return
        self._slot.write(sample)
        try:
            yield
        finally:
            self._slot.write(None)
