"""Garbage of a process that forks others, which these are to leave alone."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Knot:
    """Unreferenced but by itself; writes down which process destroys it."""

    def __init__(self, folder: Path) -> None:
        self.itself, self.folder = self, folder

    def __del__(self) -> None:
        (self.folder / f"destroyed by {os.getpid()}").touch()


@contextmanager
def garbage(folder: Path) -> Iterator[None]:
    """Is there within the block. Nobody but this process destroys it, after the block."""
    gc.disable()
    try:
        _Knot(folder)
        yield
        assert not list(folder.glob("destroyed by *"))
        gc.collect()
    finally:
        gc.enable()
    assert [path.name for path in folder.glob("destroyed by *")] == [f"destroyed by {os.getpid()}"]
