"""What became of launches: from SLURM while it remembers a job, and from what the job's script and the run wrote down."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from launchers import queue
from launchers.launch_folder import LOGS, SCRIPT, Launch, finished, launch_folders, read_launch, record_folder
from launchers.queue import UNKNOWN, QueuedJob
from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.observability.job_events import NO_JOB, SUBMITTED, Event, read_events
from megatron_mplug2.observability.last_step import last_train_step
from megatron_mplug2.observability.run_history import HISTORY_NAME
from megatron_mplug2.observability.run_summary import read_summary, summary_line

BATCH = "batch"
"""Where the job's script writes, beside the ranks."""
NOT_SUBMITTED = "NOT SUBMITTED"
_TAKEN = "when SLURM took its nodes: cancelled, preempted, out of time, or a node was lost"
NEVER_BY_ITSELF = {
    "BadConstraints": "no node has what it asks for: look at constraint, exclude and the nodes' shape in the cluster's profile",
    "PartitionConfig": "the partition's nodes are too small: look at cpus_per_task, memory_gb, tasks_per_node in the cluster's profile",
    "PartitionNodeLimit": "the partition gives a job fewer nodes, or they are down: take fewer nodes, or another partition",
    "PartitionTimeLimit": "the partition gives a job less time: lower time_limit_min in the cluster's profile",
    "DependencyNeverSatisfied": "a job before it has ended otherwise: cancel it, and run the study again",
}
"""Why a job waits in vain, in SLURM's word, and what a person can do."""
_NAMED = 16
"""Logs in a message."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """The newest launch of a run."""

    run_dir: Path
    folder: Path
    launch: Launch
    job: str | None
    """SLURM's number; None where the launch was cut off before the job was taken."""
    state: str
    """SLURM's word, or UNKNOWN."""
    queued: bool
    """Whether it waits or runs."""
    where: str
    """Nodes, or why it waits."""
    steps: int
    """That the run has done, by its record."""
    events: list[Event]
    summary: str | None
    """The run's own, over all its starts; None before its first checkpoint."""


def newest_launch(run_dir: Path) -> Path:
    """Its folder. Raises UserError where the run was never launched as a job."""
    folders = launch_folders(run_dir)
    if not folders and (run_dir / HISTORY_NAME).exists():
        raise UserError(f"{run_dir} ran here, not as a job: see `mplug2 jobs summary {shlex.quote(str(run_dir))}`")
    if not folders:
        raise UserError(f"{run_dir} has no launches: name the folder of a run that `mplug2 launch` started")
    return folders[-1]


def jobs_of(folders: Sequence[Path]) -> list[QueuedJob]:
    """What SLURM has in its queue, where one of these launches was for it: a study's step may have run here. Raises UserError where
    SLURM does not answer."""
    return queue.queued() if any((folder / SCRIPT).exists() for folder in folders) else []


def status_of(run_dir: Path, jobs: Sequence[QueuedJob]) -> JobStatus:
    """`jobs`: those of `queue.queued`. Raises UserError as `newest_launch`."""
    folder = newest_launch(run_dir)
    launched, events = read_launch(folder), read_events(folder)
    live = next((job for job in jobs if job.script.is_relative_to(folder.resolve())), None)
    job = live.job if live else next(reversed(launched.jobs), None)
    record = record_folder(run_dir, launched)
    last = last_train_step(record)
    return JobStatus(
        run_dir=run_dir,
        folder=folder,
        launch=launched,
        job=job,
        queued=live is not None,
        state=live.state if live else _ended(folder, launched, job, events),
        where=(live.nodes or live.reason) if live else "",
        steps=0 if last is None else last + 1,
        events=events,
        summary=_summary(record),
    )


def _summary(run_dir: Path) -> str | None:
    try:
        return summary_line(read_summary(run_dir))
    except (KeyError, TypeError, ValueError):  # not there, or not this version's
        return None


def _ended(folder: Path, launched: Launch, job: str | None, events: Sequence[Event]) -> str:
    if job is None and not events:
        return NOT_SUBMITTED
    state = UNKNOWN if job is None else queue.ended_state(job)  # a study's step runs here without one
    # Each part of an array has a number of its own.
    known = job is None or launched.parts or (events and str(events[-1].job) == job)
    if state == UNKNOWN and known and events and events[-1].code is not None:
        return "COMPLETED" if finished(folder, launched) else "FAILED"
    return state


def runs_below(place: Path) -> list[Path]:
    """Folders of launched runs: `place` itself and those directly in it. Raises UserError where there is none."""
    places = (place, *sorted(place.glob("*")))
    if found := [folder for folder in places if launch_folders(folder)]:
        return found
    if any((folder / HISTORY_NAME).exists() for folder in places):
        raise UserError(f"what is in {place} ran here, not as a job: see `mplug2 jobs summary {shlex.quote(str(place))}`")
    raise UserError(f"no launched runs in {place}: name the folder of a run, or of runs")


def log_path(run_dir: Path, who: str) -> Path:
    """The newest job's log of a rank or of BATCH; of an array's part or its `PART_batch`. Raises UserError where there is none (yet)."""
    folder = newest_launch(run_dir)
    jobs = read_launch(folder).jobs
    if not jobs:
        raise UserError(f"{run_dir} has no job: `mplug2 jobs list {shlex.quote(str(run_dir))}` shows its launches")
    path = folder / LOGS / f"{jobs[-1]}_{who}.log"
    if not path.exists():
        there = sorted(log.stem.removeprefix(f"{jobs[-1]}_") for log in path.parent.glob(f"{jobs[-1]}_*.log"))
        named = ", ".join(there[:_NAMED]) + (", ..." if len(there) > _NAMED else "")
        raise UserError(f"{path} is not there: " + (f"name one of --rank {named}" if there else "the job has not started"))
    return path


def silence(found: JobStatus) -> str | None:
    """A line about a job whose last start has left no word, not even that it began: SLURM itself could not write its log."""
    silent = bool(found.events) and (found.events[-1].event == SUBMITTED or found.events[-1].next == "requeue")
    if found.queued or not silent or found.state == "CANCELLED":
        return None
    return f"job {found.job} wrote nothing: {found.folder / LOGS} is not there or full, or its nodes cannot write into it"


def waits_in_vain(found: JobStatus) -> str | None:
    """A line about a job whose turn does not come by waiting."""
    advice = NEVER_BY_ITSELF.get(found.where) if found.state == "PENDING" else None
    return None if advice is None else f"job {found.job} waits in vain unless something changes: {advice}"


def told(events: Sequence[Event]) -> list[str]:
    """A line for each event; also for a start that was followed by another one and has told of no end."""
    lines = []
    for event, after in zip_longest(events, events[1:]):
        lines.append(f"{_at(event)}  {described(event)}")
        if event.event == "start" and after is not None and after.event == "start" and after.job == event.job:
            lines.append(f"{_at(after)}  {_start(event)} has told of no end: its node was lost, or SLURM ended it")
    return lines


def _at(event: Event) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))


def _start(event: Event) -> str:
    if event.job == NO_JOB:
        return "its run here"
    job = f"job {event.job}" if event.part is None else f"part {event.part} (job {event.job})"
    return f"{job} start {event.restarts}"


def described(event: Event) -> str:
    """An event's line for a person."""
    start = _start(event)
    if event.event == SUBMITTED:
        return f"job {event.job} submitted"
    if event.event == "unhealthy":
        then = {"exclude": f"{event.nodes} left out of the next start", "end": "on every node"}.get(event.next, "no node surely to blame")
        return f"{start} failed its health check, {then}: {event.why}"
    if event.code is None:
        return f"{start} on {event.nodes}"
    known = {int(code): code.name.lower().replace("_", " ") for code in ExitCode}
    how = known.get(event.code, f"signal {event.code - 128}" if event.code > 128 else "failed")
    if event.job == NO_JOB:
        return f"{start} ended with {event.code} ({how})"
    then = {"requeue": "requeued", "limit": "not requeued: requeue_limit reached", "taken": _TAKEN}.get(event.next, "not requeued")
    return f"{start} ended with {event.code} ({how}), {then}{f': {event.why}' if event.why else ''}"
