"""The folder that a stage fills: what was asked of it, who works in it, and files that are whole or not there."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_tools.sample import as_utf8
from data_tools.stages.part import Part
from megatron_mplug2.errors import UserError

WORK = ".work"
"""Inside the folder: what only the stage itself needs."""
_BEGUN = "begun.json"
_LAST_LOCK = "last.lock"
_STAGE = "stage"
"""Among what was asked."""
_PATIENCE_S = 5.0
"""Seconds to wait for a part's lock."""

Asked = Mapping[str, str]
"""What a stage was asked to do, by option, as a person would read it."""


class WorkFolder:
    """A stage's folder for one part's process. Everything in it appears whole, by a rename, or not at all."""

    def __init__(self, place: Path, part: Part) -> None:
        self.place = place
        self.work = place / WORK
        self._scratch = self.work / f"part-{part.index}-of-{part.count}"
        self._lock = self.work / f"{self._scratch.name}.lock"
        self._part = part

    @contextmanager
    def begun(self, asked: Asked) -> Iterator[None]:
        """Holds the part while the block runs; what a killed process left half-written is removed first. A new folder that the block
        refuses to fill, with a UserError before anything is in it, is removed again.

        Raises UserError where the folder was begun with something else, is no stage's, cannot be written, or the part is in work already.
        """
        with telling(self.place):
            if self.place.exists() and not self.work.exists() and (not self.place.is_dir() or any(self.place.iterdir())):
                raise UserError(f"{self.place} exists already and is not this stage's: choose another --out, or delete it first")
            self.work.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take(lock)
            with self._held(asked):
                yield
        finally:
            os.close(lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time, of all parts."""
        with telling(self.work / _LAST_LOCK):
            file = (self.work / _LAST_LOCK).open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def whole_file(self, path: Path) -> Iterator[IO[bytes]]:
        """A file to write, which is at `path` (inside the folder) once the block ends well. Raises UserError where it cannot be written."""
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        partial = self._scratch / f"{name}-{os.getpid()}"
        with telling(path):
            try:
                with partial.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def check(self, asked: Asked) -> None:
        """Raises UserError where what the folder was begun with is something else by now."""
        with telling(self.place):
            self._check(asked)

    @contextmanager
    def _held(self, asked: Asked) -> Iterator[None]:
        """`begun` with the lock in hand: only its holder may touch what lies in the scratch folder."""
        new = False
        try:
            with telling(self.place):
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch.mkdir(exist_ok=True)
                new = self._note_asked(asked)
            yield
        except UserError:
            if new:
                self._remove_if_empty()
            raise
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _take(self, lock: int) -> None:
        """A process that was killed a moment ago may hold the lock until it is gone altogether, hence the patience."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UserError(
                        f"part {self._part} of {self.place} is being written by another process: wait for it or end it"
                    ) from None
                time.sleep(0.02)
            except OSError as error:
                raise UserError(f"cannot lock {self._lock}: {error.strerror}; choose an --out on a file system with locks") from None

    def _note_asked(self, asked: Asked) -> bool:
        """Whether the folder is new. Raises UserError where it was begun with something else."""
        path = self.work / _BEGUN
        with self.alone():
            if not path.exists():
                with self.whole_file(path) as file:
                    file.write(as_utf8(json.dumps(asked, indent=1, ensure_ascii=False) + "\n"))
                return True
        self._check(asked)
        return False

    def _check(self, asked: Asked) -> None:
        path = self.work / _BEGUN
        try:
            before = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            raise UserError(f"{path} is damaged: delete {self.place} and begin again") from None
        if changed := _changed(before, asked):
            raise UserError(f"{self.place} was begun with something else ({'; '.join(changed)}): choose another --out, or delete it first")

    def _remove_if_empty(self) -> None:
        """Unless another part works there, or has written something."""
        own = {self.work, self.work / _BEGUN, self.work / _LAST_LOCK, self._lock, self._scratch}
        with self.alone():
            if {*self.place.iterdir(), *self.work.iterdir()} <= own:
                shutil.rmtree(self.place, ignore_errors=True)


def _changed(before: Asked, asked: Asked) -> list[str]:
    """For a person. Of another stage its name says all: its options are others."""
    keys = sorted({*before, *asked})
    if before.get(_STAGE) != asked.get(_STAGE):
        keys = [_STAGE]
    told = {key: (before.get(key, "not given"), asked.get(key, "not given")) for key in keys}
    return [f"{key}: {old} before, {new} now" for key, (old, new) in told.items() if old != new]


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turns the failure of a write into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; mend that and run the same command again") from None
