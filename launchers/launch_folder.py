"""The folder of one launch, `RUN/launches/0001`: what was launched, the jobs that came of it, and what their script wrote down."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.observability.run_history import HISTORY_NAME

LAUNCHES = "launches"
CODE, LOGS, SCRIPT, EVENTS, PROBES = "code", "logs", "job.sh", "events.jsonl", "health"
LAUNCH = "launch.json"
SUBMITTED = "submit"
"""The event of a launch that hands its script over; the others are the script's."""
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


class Event(BaseModel):
    """A line of the job's script about one start of a job; or of the launch, which submits it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: int
    """Seconds since 1970."""
    job: int
    restarts: int
    event: str
    """`submit`, `start`, `unhealthy` or `end`."""
    nodes: str = ""
    """Of the start; of `unhealthy` those that are left out next time."""
    code: int | None = None
    """What the start ended with, as `errors.ExitCode`."""
    next: str = ""
    """`requeue`, `end`, or `limit` where it would have been requeued once too often; of `unhealthy` `exclude` where a node is to blame."""
    why: str = ""
    """Of `unhealthy`."""


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
    """The same, made."""
    folder = next_folder(launches)
    (folder / LOGS).mkdir(parents=True)
    return folder


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


def append_event(folder: Path, event: Event) -> None:
    """As a job's script does."""
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(event.model_dump_json() + "\n")


def events_name(part: str | int | None) -> str:
    """The file in which a job, or a part of an array, tells of its starts: one each, since nodes share a folder, not the end of a file."""
    return EVENTS if part is None else f"events-{part}.jsonl"


def read_events(folder: Path) -> list[Event]:
    """In the order of time, of all parts; without lines that a dying node has cut off."""
    events = [event for path in sorted(folder.glob("events*.jsonl")) for event in events_in(path)]
    return sorted(events, key=lambda event: event.at)


def finished(folder: Path, launch: Launch) -> bool:
    """Whether the command ended well, in all its parts: the last thing that each has told."""
    parts = [None] if launch.parts is None else range(1, launch.parts + 1)
    ends = [events_in(folder / events_name(part))[-1:] for part in parts]
    return all(end and end[0].code == ExitCode.FINISHED for end in ends)


def events_in(path: Path) -> list[Event]:
    """Of one file; none where there is no such file."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            entry: Any = json.loads(line)
            events.append(Event.model_validate(entry))
        except ValueError:
            continue
    return events
