"""What jobs have told of a run's starts in `RUN/launches/0001/events.jsonl`: also of those that ended before the run itself could."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

LAUNCHES = "launches"
"""Folder in a run's, or in that of a study's step: a folder for each launch."""
LAUNCH, EVENTS = "launch.json", "events.jsonl"
SUBMITTED = "submit"
"""The event of a launch that hands its script over; the others are the script's."""
NO_JOB = 0
"""In a job's place, of a study's step that ran without one."""
FOLDER = "MPLUG2_LAUNCH"
"""Environment variable, set by the job's script: the launch's folder."""
TRAINING = ("pretrain", "finetune")
"""Commands whose starts are those of a run; its evaluations lie in its folder too."""


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
    """`requeue`, `end`, `limit` where it would have been requeued once too often, or `taken` where SLURM has ended the job itself; of
    `unhealthy` `exclude` where a node is to blame."""
    why: str = ""
    """Of `unhealthy`, and of an end that a rank, or srun, has said something about."""
    part: int | None = Field(default=None, exclude=True)
    """Of an array, by the name of the file."""


def append_event(folder: Path, event: Event) -> None:
    """As a job's script does."""
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(event.model_dump_json() + "\n")


def events_name(part: str | int | None) -> str:
    """The file in which a job, or a part of an array, tells of its starts: one each, since nodes share a folder, not the end of a file."""
    return EVENTS if part is None else f"events-{part}.jsonl"


def read_events(folder: Path) -> list[Event]:
    """Of a launch. In the order of time, of all parts; without lines that a dying node has cut off.

    A job may begin within the second in which it was submitted, and tell of it before the launch does. Parts have the larger numbers.
    """
    events = [event for path in sorted(folder.glob("events*.jsonl")) for event in events_in(path)]
    return sorted(events, key=lambda event: (event.at, event.job, event.event != SUBMITTED))


def events_in(path: Path) -> list[Event]:
    """Of one file; none where there is no such file."""
    part, events = path.stem.partition("-")[2], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            entry: Any = json.loads(line)
            events.append(Event.model_validate({**entry, "part": part or None}))
        except (TypeError, ValueError):
            continue
    return events


def training_events(run_dir: Path, history: Sequence[Mapping[str, Any]]) -> list[Event]:
    """Of all launches that trained a run, in the order of time. `history`: the run's own, which says where its launches lie if that is not
    in its folder."""
    folders = list((run_dir / LAUNCHES).glob("[0-9]*"))
    if not folders:
        told = [Path(event["launch"]).parent for event in history if isinstance(event.get("launch"), str)]
        folders = [folder for launches in dict.fromkeys(told) for folder in launches.glob("[0-9]*")]
    return sorted((event for folder in folders if _trains(folder) for event in read_events(folder)), key=lambda event: event.at)


def own_launch(environ: Mapping[str, str]) -> str | None:
    """The folder of the launch that this process belongs to; None where it is no job's."""
    return environ.get(FOLDER)


def _trains(folder: Path) -> bool:
    try:
        launch: Any = json.loads((folder / LAUNCH).read_text(encoding="utf-8"))
        return launch["command"][0] in TRAINING
    except (OSError, ValueError, LookupError, TypeError):  # a launch that was cut off
        return False
