"""How far a study is: read off the launches of its steps and off SLURM's queue. There is no other record, so none that could be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from launchers.jobs import described
from launchers.launch_folder import SCRIPT, Launch, finished, launch_folders, read_launch
from launchers.queue import QueuedJob
from launchers.study import Step, Study
from megatron_mplug2.observability.job_events import LAUNCHES, SUBMITTED, read_events

RUNNING = "RUNNING"


class Progress(StrEnum):
    FINISHED = "finished"
    QUEUED = "queued"
    """It waits or runs."""
    ENDED = "not finished"
    """It was started, and neither is finished nor runs."""
    OUTDATED = "to be done again"
    """It is finished, but its command is another one now, or a step before it was done again."""
    TO_DO = "to do"


@dataclass(frozen=True, kw_only=True)
class StepState:
    step: Step
    progress: Progress
    current: bool = False
    """Whether its newest launch is one of this command after these launches of the steps before it."""
    launch: str = ""
    """Name of the newest one, such as `shards/0001`; none before the first."""
    job: QueuedJob | None = None
    """Where it is queued; of an array, a task that runs where there is one."""
    detail: str = ""
    """What a person wants to know beside."""


def states(study: Study, jobs: Sequence[QueuedJob]) -> dict[str, StepState]:
    """By step, in the study's order. `jobs`: those of `queue.queued`. Raises UserError where a launch's record cannot be read."""
    found: dict[str, StepState] = {}
    for step in study.steps:
        found[step.name] = _state(step, [found[name] for name in step.after], jobs)
    return found


def on_slurm(study: Study) -> bool:
    """Whether a step's newest launch is a job, which the queue may know."""
    return any((folder / SCRIPT).exists() for step in study.steps for folder in launch_folders(step.home)[-1:])


def _state(step: Step, before: Sequence[StepState], jobs: Sequence[QueuedJob]) -> StepState:
    folders = launch_folders(step.home)
    if not folders:
        return StepState(step=step, progress=Progress.TO_DO, detail=_waits(before))
    folder = folders[-1]
    launched = read_launch(folder)
    current = _is_current(step, launched, before)
    name = f"{step.name}/{folder.name}"
    if finished(folder, launched):
        done = current and all(state.progress is Progress.FINISHED for state in before)
        return StepState(step=step, progress=Progress.FINISHED if done else Progress.OUTDATED, current=current, launch=name)
    if live := _live(step, jobs):
        where = f"job {live.job} {live.state} {live.nodes or live.reason}"
        return StepState(step=step, progress=Progress.QUEUED, current=current, launch=name, job=live, detail=where)
    return StepState(step=step, progress=Progress.ENDED, launch=name, detail=_ended(folder, launched, before))


def _is_current(step: Step, launched: Launch, before: Sequence[StepState]) -> bool:
    return launched.command == step.command.words and launched.after == tuple(state.launch for state in before)


def _live(step: Step, jobs: Sequence[QueuedJob]) -> QueuedJob | None:
    """Known by its script, even where its number was lost."""
    own = [job for job in jobs if job.script.is_relative_to(step.home / LAUNCHES)]
    return next((job for job in own if job.state == RUNNING), next(iter(own), None))


def _waits(before: Sequence[StepState]) -> str:
    open_ = [state.step.name for state in before if state.progress is not Progress.FINISHED]
    return f"after {', '.join(open_)}" if open_ else ""


def _ended(folder: Path, launched: Launch, before: Sequence[StepState]) -> str:
    """The first thing that went wrong, or else where it stopped."""
    events = [event for event in read_events(folder) if event.event != SUBMITTED]
    last = {event.job: event for event in events}  # of an array, of each part
    wrong = [event for event in last.values() if event.code]
    if wrong:
        return described(wrong[0])
    if events:
        return f"{described(events[-1])}, and no end is known"
    return f"job {launched.jobs[-1]} never started" if launched.jobs else _waits(before) or "it never started"
