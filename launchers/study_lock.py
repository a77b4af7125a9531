"""One `mplug2 study run` at a time in a study's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_mplug2.errors import UserError


@contextmanager
def study_lock(folder: Path) -> Iterator[int]:
    """Makes the folder and holds it; gives a descriptor, with which processes that inherit it hold it too, should this one be killed.

    Raises UserError where it is held, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; a study's folder must be on storage that the nodes share") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise UserError(f"another `mplug2 study run` is at work in {folder}: wait for it, or end it") from None
    try:
        yield lock
    finally:
        os.close(lock)
