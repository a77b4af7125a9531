"""The folder that a stage fills: what was asked of it, who works in it, and files that are whole or not there."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_tools.stages.part import Part
from megatron_mplug2.errors import UserError

WORK = ".work"
"""Inside the folder: what only the stage itself needs."""
_BEGUN = "begun.json"

Asked = Mapping[str, str]
"""What a stage was asked to do, by option, as a person would read it."""


class WorkFolder:
    """A stage's folder for one part's process. Everything in it appears whole, by a rename, or not at all."""

    def __init__(self, place: Path, part: Part) -> None:
        self.place = place
        self.work = place / WORK
        self._scratch = self.work / f"part-{part.index}-of-{part.count}"
        self._part = part

    @contextmanager
    def begun(self, asked: Asked) -> Iterator[None]:
        """Holds the part while the block runs; what a killed process left half-written is removed first.

        Raises UserError where the folder was begun with something else, is no stage's, cannot be written, or the part is in work already.
        """
        with telling(self.place):
            if self.place.exists() and not self.work.exists() and (not self.place.is_dir() or any(self.place.iterdir())):
                raise UserError(f"{self.place} exists already and is not this stage's: choose another --out, or delete it first")
            self.work.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.work / f"{self._scratch.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"part {self._part} of {self.place} is being written by another process: wait for it or end it") from None
            with telling(self.place):
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch.mkdir()
                self._check_asked(asked)
            yield
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            os.close(lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time, of all parts."""
        with (self.work / "last.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def whole_file(self, path: Path) -> Iterator[IO[bytes]]:
        """A file to write, which is at `path` (inside the folder) once the block ends well. Raises UserError where it cannot be written."""
        name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
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

    def _check_asked(self, asked: Asked) -> None:
        path = self.work / _BEGUN
        with self.alone():
            if not path.exists():
                with self.whole_file(path) as file:
                    file.write((json.dumps(asked, indent=1, ensure_ascii=False) + "\n").encode())
                return
            try:
                before = json.loads(path.read_bytes())
            except ValueError:
                raise UserError(f"{path} is damaged: delete {self.place} and begin again") from None
        changed = [
            f"{key}: {before.get(key)} before, {asked.get(key)} now"
            for key in sorted({*before, *asked})
            if before.get(key) != asked.get(key)
        ]
        if changed:
            raise UserError(f"{self.place} was begun with something else ({'; '.join(changed)}): choose another --out, or delete it first")


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turns the failure of a write into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; mend that and run the same command again") from None
