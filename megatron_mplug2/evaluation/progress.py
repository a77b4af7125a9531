"""What the person at the terminal sees of an evaluation: a live bar for each part, or a plain line when a part is done."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


class EvaluationProgress:
    """Speaks on one rank of a run; silent on the others."""

    def __init__(self, *, speaks: bool) -> None:
        self._speaks = speaks
        self._console = Console(stderr=True, highlight=False)

    def over(self, batches: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The batches, counted."""
        live = self._speaks and self._console.is_terminal
        started = time.monotonic()
        yield from track(batches, what, total, console=self._console, disable=not live, transient=True)
        self.note(f"{what}: {time.monotonic() - started:.1f} s")

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """A part without a count."""
        started = time.monotonic()
        yield
        self.note(f"{what}: {time.monotonic() - started:.1f} s")

    def note(self, text: str) -> None:
        if self._speaks:
            self._console.print(text, markup=False, soft_wrap=True)
