"""Complete checkpoints in a folder: what makes one, how it appears, and how old ones go.

    step-00000100/          complete: has a COMMIT with the checksum of each of its files
    step-00000200.partial/  being written, or left by a kill; the next save removes it
    step-00000050.old.partial/  on its way out
    latest                  name of the newest, for people and other programs

The COMMIT makes a checkpoint: it appears in its folder by a rename when everything else is written. A checkpoint goes by a rename of its
folder, before the first of its files. So a kill at any moment leaves a folder that is complete or doesn't count.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from megatron_mplug2.checkpoint.commit_file import COMMIT, FORMAT, Commit, DamagedError, FileSum, read_commit
from megatron_mplug2.errors import UserError

LATEST = "latest"
PARTIAL = ".partial"

_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay when a newer one is complete."""

    last: int
    """That many of the last ones."""
    every: int = 0
    """And those after a multiple of that many steps, for good; 0: none."""
    best: int | None = None
    """And the one after that many steps."""

    def doomed(self, steps: list[int]) -> list[int]:
        """Of ascending steps, those that go. Never the last one."""
        return [step for step in steps[: -self.last] if step != self.best and (not self.every or step % self.every)]


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a folder's name; None where it is not a checkpoint's."""
    match = _FOLDER.fullmatch(name)
    return int(match[1]) if match else None


def committed_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending; nothing is said of damage."""
    steps = (step_of(path.parent.name) for path in folder.glob(f"step-*/{COMMIT}"))
    return sorted(step for step in steps if step is not None)


def by_age(folder: Path) -> list[tuple[Path, Commit]]:
    """The complete checkpoints with a readable COMMIT, the one written last first. Raises UserError for one of a newer format."""
    found = []
    for step in committed_steps(folder):
        try:
            found.append((folder / folder_name(step), read_commit(folder / folder_name(step))))
        except DamagedError:
            continue
    return sorted(found, key=lambda entry: entry[1].serial, reverse=True)


def latest(folder: Path) -> int | None:
    """Step of the complete checkpoint that was written last; None where there is none."""
    found = by_age(folder)
    return found[0][1].step if found else None


def recover(folder: Path) -> None:
    """Finishes what a kill has left between a COMMIT and the checkpoint's final name. Only for the run that saves here."""
    for partial in folder.glob(f"step-*{PARTIAL}"):
        final = partial.with_name(partial.name.removesuffix(PARTIAL))
        if step_of(final.name) is not None and (partial / COMMIT).is_file() and not final.exists():
            partial.rename(final)
            sync_folder(folder)


def begin(folder: Path, step: int) -> Path:
    """Makes the empty folder that a checkpoint is written in, after removing what killed saves have left."""
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    for leftover in folder.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(leftover)
    partial = folder / (folder_name(step) + PARTIAL)
    partial.mkdir()
    return partial


def commit(partial: Path, step: int, files: dict[str, FileSum]) -> Path:
    """Turns a written folder into a complete checkpoint and makes it the latest. A checkpoint of the same step is replaced.

    Raises UserError where a file of another rank isn't there.
    """
    folder, final = partial.parent, partial.parent / folder_name(step)
    for name, expected in files.items():
        if not (partial / name).is_file() or (partial / name).stat().st_size != expected.size:
            raise UserError(f"{partial / name} cannot be seen from rank 0: {folder} must be on a file system that all nodes share")
    serial = 1 + max((content.serial for _, content in by_age(folder)), default=0)
    replace_durably(partial / COMMIT, Commit(format=FORMAT, step=step, serial=serial, files=files).model_dump_json(indent=1))
    replaced = _set_aside(final) if final.exists() else None
    partial.rename(final)
    sync_folder(folder)
    replace_durably(folder / LATEST, f"{final.name}\n")
    if replaced is not None:
        shutil.rmtree(replaced)
    return final


def retain(folder: Path, step: int, retention: Retention) -> None:
    """Removes what need not stay of the checkpoints up to `step`; later ones are of another branch of the run and stay."""
    for old in retention.doomed([other for other in committed_steps(folder) if other <= step]):
        shutil.rmtree(_set_aside(folder / folder_name(old)))


def _set_aside(checkpoint: Path) -> Path:
    """Renames a checkpoint, so that it stops counting at once, before the first of its files goes."""
    doomed = checkpoint.with_name(f"{checkpoint.name}.old{PARTIAL}")
    checkpoint.rename(doomed)
    return doomed


def replace_durably(path: Path, text: str) -> None:
    """Puts a file in place whole or not at all, also over a power cut."""
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable, which syncing the files alone doesn't."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
