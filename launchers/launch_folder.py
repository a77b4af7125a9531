"""The folder of one launch, `RUN/launches/0001`: what was launched, the jobs that came of it, and what their script wrote down."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.observability.job_events import LAUNCH, LAUNCHES, events_in, events_name
from megatron_mplug2.observability.run_history import HISTORY_NAME

CODE, LOGS, SCRIPT, PROBES = "code", "logs", "job.sh", "health"
_LOCK = ".lock"


class Launch(BaseModel):
    """What was launched, and which jobs it became."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...]
    """As typed, after `mplug2`."""
    commit: str | None
    """Of git; None outside a checkout."""
    changed: bool
    """Whether the checkout had uncommitted changes: `git.diff` has them."""
    nodes: int
    tasks_per_node: int
    parts: int | None = None
    """Of an array; None where it is none."""
    after: tuple[str, ...] = ()
    """Names of the launches that had to end well first, in a study."""
    run_dir: Path | None = None
    """Absolute, of the run that it reads and writes; a study's launches lie elsewhere."""
    jobs: tuple[str, ...] = ()
    """SLURM's numbers; the first one, and one for each `mplug2 jobs resume`."""


@contextmanager
def locked(run_dir: Path) -> Iterator[Path]:
    """The run's folder of launches, made and held against another `mplug2 launch` or `jobs resume`. Raises UserError where it is held."""
    folder = run_dir / LAUNCHES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; run_dir must be on storage that the nodes share") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another command is launching from {run_dir} at this moment: wait for it") from None
        yield folder


def next_folder(launches: Path) -> Path:
    """That of the next launch; not made."""
    last = max((int(path.name) for path in launches.glob("[0-9]*") if path.name.isdecimal()), default=0)
    return launches / f"{last + 1:04d}"


def new_folder(launches: Path) -> Path:
    """The same, made. Raises UserError where it cannot be."""
    folder = next_folder(launches)
    try:
        (folder / LOGS).mkdir(parents=True)
    except OSError as error:
        raise unwritten(folder, error) from None
    return folder


def unwritten(folder: Path, error: OSError) -> UserError:
    """What a person is told where a launch's folder cannot be written."""
    reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error.strerror  # of the first of many files
    return UserError(f"cannot write the launch into {folder}: {reason}; run_dir must be on storage that the nodes share and that has room")


def launch_folders(run_dir: Path) -> list[Path]:
    """Of a run, the oldest first; without those whose launch was not finished."""
    folders = (run_dir / LAUNCHES).glob("[0-9]*")
    return sorted(folder for folder in folders if (folder / LAUNCH).exists())


def record_folder(place: Path, launched: Launch) -> Path:
    """Where the run of a launch from `place` writes what it does: a study's launches lie elsewhere; a run's folder may have been moved."""
    return place if launched.run_dir is None or (place / HISTORY_NAME).exists() else launched.run_dir


def write_launch(folder: Path, launch: Launch) -> None:
    unfinished = folder / f".{LAUNCH}.{os.getpid()}"
    unfinished.write_text(launch.model_dump_json(indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / LAUNCH)


def read_launch(folder: Path) -> Launch:
    """Raises UserError where it cannot be read."""
    try:
        return Launch.model_validate_json((folder / LAUNCH).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{folder / LAUNCH} cannot be read: {' '.join(str(error).split())}") from None


def finished(folder: Path, launch: Launch) -> bool:
    """Whether the command ended well, in all its parts: the last thing that each has told."""
    parts = [None] if launch.parts is None else range(1, launch.parts + 1)
    ends = [events_in(folder / events_name(part))[-1:] for part in parts]
    return all(end and end[0].code == ExitCode.FINISHED for end in ends)
