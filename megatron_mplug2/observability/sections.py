"""Where in a step a rank is, and how long each section takes it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.parallel.marks import Mark


class Section(StrEnum):
    """The parts of a step, in their order."""

    START = "start"
    """Building the model, loading a checkpoint, opening the data."""
    DATA_WAIT = "data wait"
    DRAWING = "drawing"
    """The captions that the model draws of a step's pictures or clips, where they are what is taught."""
    MEETING = "meeting"
    """The step's first collective: data-parallel ranks wait here for the one whose batch comes last."""
    FEATURE_PASS = "feature pass"
    """VLC's first pass, without gradients."""
    FORWARD_BACKWARD = "forward-backward"
    GRADIENT_REDUCTION = "gradient reduction"
    """Data-parallel ranks wait here for the one whose backward ends last."""
    OPTIMIZER = "optimizer"
    LOGGING = "logging"
    VALIDATION = "validation"
    CHECKPOINT = "checkpoint"

    @property
    def tag(self) -> str:
        """A name for TensorBoard, which has no blanks in names."""
        return self.value.replace(" ", "_")

    @property
    def place(self) -> int:
        """Its number in the order of a step."""
        return _PLACES[self]


_PLACES = {section: place for place, section in enumerate(Section)}

OWN_WORK = (Section.DATA_WAIT, Section.DRAWING, Section.FEATURE_PASS, Section.FORWARD_BACKWARD)
"""Sections whose length is a rank's own, and not that of the slowest rank."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a rank is. Another object with each progress that it makes."""

    step: int
    section: Section
    since: float
    """`time.monotonic()` of the last progress."""


class SectionClock:
    """A rank's main thread tells it where it goes; any thread may ask where that is."""

    def __init__(self) -> None:
        self.position = Position(step=0, section=Section.START, since=time.monotonic())
        self._mark = Mark()
        self._spans: list[tuple[Section, Mark, Mark]] = []
        self._pinned = False

    def enter(self, section: Section, step: int | None = None) -> None:
        """The section before ends here. `step`: its index, where a new one begins. Never waits for a GPU."""
        if self._pinned:
            self._move(self.position.section, self.position.step)
            return
        mark = Mark()
        self._spans.append((self.position.section, self._mark, mark))
        self._mark = mark
        self._move(section, self.position.step if step is None else step)

    @contextmanager
    def within(self, section: Section) -> Iterator[None]:
        """All of the block is this section: sections that are entered in it are progress, but belong to it."""
        before = self.position.section
        self.enter(section)
        self._pinned = True
        try:
            yield
        finally:
            self._pinned = False
            self.enter(before)

    def take(self) -> dict[Section, float]:
        """Seconds by section since the last take, of all sections that have ended. On a GPU it waits for the last of them."""
        seconds = dict.fromkeys(Section, 0.0)
        for section, begin, end in self._spans:
            seconds[section] += begin.seconds_to(end)
        self._spans.clear()
        return seconds

    def _move(self, section: Section, step: int) -> None:
        self.position = Position(step=step, section=section, since=time.monotonic())
