"""One `mplug2 study run` at a time in a study's folder, and one `mplug2 sweep run` in a sweep's."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_mplug2.errors import UserError


@contextmanager
def study_lock(folder: Path, kind: str = "study") -> Iterator[int]:
    """Makes the folder and holds it; gives a descriptor, with which processes that inherit it hold it too, should this one be killed.

    `kind`: what is run there, as the command is called.
    Raises UserError where it is held, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}; a {kind}'s folder must be on storage that the nodes share"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise UserError(f"another `mplug2 {kind} run` is at work in {folder}: wait for it, or end it") from None
    try:
        yield lock
    finally:
        os.close(lock)
