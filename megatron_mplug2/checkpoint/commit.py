"""Complete checkpoints in a folder: what makes one, which is the latest, and how old ones go.

    step-00000100/          complete: has a COMMIT with the checksum of each of its files
    step-00000200.partial/  being written, or left by a kill; the next save removes it
    latest                  name of the checkpoint to go on from

A checkpoint appears and disappears by a rename, so a kill at any moment leaves a folder that is complete or doesn't count.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_mplug2.errors import UserError

COMMIT = "COMMIT"
LATEST = "latest"
PARTIAL = ".partial"
FORMAT = 1
"""Raised when older checkpoints can no longer be read as they are."""

_FOLDER = re.compile(r"step-(\d{8,})")


class FileSum(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    """Bytes."""
    sha256: str


class Commit(BaseModel):
    """Content of the COMMIT file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    step: int
    files: dict[str, FileSum]
    """Name in the folder -> what it must contain."""


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def committed_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    matches = (_FOLDER.fullmatch(path.parent.name) for path in folder.glob(f"step-*/{COMMIT}"))
    return sorted(int(match[1]) for match in matches if match)


def latest(folder: Path) -> int | None:
    """Step of the checkpoint to go on from; None where there is none.

    It is what the file `latest` names, or, if that is not complete (removed by hand, or damaged), the highest.
    """
    steps = committed_steps(folder)
    pointer = folder / LATEST
    match = _FOLDER.fullmatch(pointer.read_text(errors="replace").strip()) if pointer.is_file() else None
    if match and int(match[1]) in steps:
        return int(match[1])
    return steps[-1] if steps else None


def begin(folder: Path, step: int) -> Path:
    """Makes the empty folder that a checkpoint is written in, after removing what killed saves have left."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(leftover)
    partial = folder / (folder_name(step) + PARTIAL)
    partial.mkdir()
    return partial


def checksum(path: Path) -> FileSum:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileSum(size=file.tell(), sha256=digest.hexdigest())


def commit(partial: Path, step: int, files: dict[str, FileSum]) -> Path:
    """Turns a written folder into a complete checkpoint and makes it the latest. A checkpoint of the same step is replaced.

    Raises UserError where a file of another rank isn't there.
    """
    folder, final = partial.parent, partial.parent / folder_name(step)
    for name, expected in files.items():
        if not (partial / name).is_file() or (partial / name).stat().st_size != expected.size:
            raise UserError(f"{partial / name} cannot be seen from rank 0: {folder} must be on a file system that all nodes share")
    write_durably(partial / COMMIT, Commit(format=FORMAT, step=step, files=files).model_dump_json(indent=1))
    _sync_folder(partial)
    replaced = _set_aside(final) if final.exists() else None
    partial.rename(final)
    _sync_folder(folder)
    write_durably(folder / f"{LATEST}.tmp", f"{final.name}\n")
    os.replace(folder / f"{LATEST}.tmp", folder / LATEST)
    _sync_folder(folder)
    if replaced is not None:
        shutil.rmtree(replaced)
    return final


def retain(folder: Path, step: int, keep: int) -> None:
    """Removes all but the last `keep` checkpoints up to `step`; later ones are of another branch of the run and stay."""
    earlier = [other for other in committed_steps(folder) if other <= step]
    for old in earlier[:-keep]:
        shutil.rmtree(_set_aside(folder / folder_name(old)))


def _set_aside(checkpoint: Path) -> Path:
    """Renames a checkpoint, so that it stops counting at once, before the first of its files goes."""
    doomed = checkpoint.with_name(f"{checkpoint.name}.old{PARTIAL}")
    checkpoint.rename(doomed)
    return doomed


def find(folder: Path, step: int | None) -> Path:
    """The folder of a checkpoint, the latest if `step` is None. Raises UserError where there is none."""
    last = latest(folder)
    if last is None:
        raise UserError(f"no checkpoint in {folder}")
    steps = committed_steps(folder)
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step} in {folder}: there are {', '.join(map(str, steps))}")
    return folder / folder_name(last if step is None else step)


def read_commit(checkpoint: Path) -> Commit:
    """Raises UserError where the COMMIT is damaged or of a newer format."""
    try:
        content = Commit.model_validate_json((checkpoint / COMMIT).read_bytes())
    except ValidationError:
        raise UserError(f"{checkpoint / COMMIT} is damaged: remove {checkpoint} to use an earlier checkpoint") from None
    if content.format != FORMAT:
        raise UserError(f"{checkpoint} has checkpoint format {content.format}, this version reads {FORMAT}")
    return content


def verify(checkpoint: Path, name: str, expected: FileSum) -> None:
    """Raises UserError that names the file where it isn't what was committed."""
    path = checkpoint / name
    if not path.is_file():
        fault = "is missing"
    elif path.stat().st_size != expected.size:
        fault = f"has {path.stat().st_size} of {expected.size} bytes"
    elif checksum(path) != expected:
        fault = "is damaged (its checksum differs)"
    else:
        return
    raise UserError(f"{path} {fault}: remove {checkpoint} to use an earlier checkpoint")


def write_durably(path: Path, text: str) -> None:
    """Writes a file that survives a power cut; its name does once its folder is synced."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes names in a folder durable, which syncing the files alone doesn't."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
