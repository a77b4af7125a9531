"""How far a stage is, on stderr: a line that changes where a terminal looks on, else a new one now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from megatron_mplug2.wording import counted

_EVERY_S = 30.0
"""Seconds between two lines where no terminal looks on, such as in a job's log."""


class Tally:
    """Counts samples looked at and pieces done; the number of all of them is not known before."""

    def __init__(self, what: str, bar: Progress) -> None:
        self._what = what
        self._bar = bar
        self._task = bar.add_task(what)
        self._samples = 0
        self._pieces = 0
        self._told_s = time.monotonic()

    def looked(self, samples: int) -> None:
        """So many samples have been looked at by now."""
        self._samples = samples
        self._tell()

    def piece_done(self) -> None:
        self._pieces += 1
        self._tell()

    def _tell(self) -> None:
        self._bar.update(self._task, description=str(self))
        if self._bar.disable and time.monotonic() - self._told_s >= _EVERY_S:
            self._told_s = time.monotonic()
            print(self, file=sys.stderr, flush=True)

    def __str__(self) -> str:
        samples = f"{self._samples} samples, " if self._samples else ""
        return f"{self._what}: {samples}{counted(self._pieces, 'piece')} done"


@contextmanager
def tally(what: str) -> Iterator[Tally]:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Tally(what, bar)
