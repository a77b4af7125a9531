"""How far a sweep is: read off its results, the points' folders, the launches of its arrays and SLURM's queue."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from launchers.launch_folder import LOGS, SCRIPT, Launch, launch_folders, read_launch
from launchers.queue import QueuedJob
from launchers.sweep.arrays import ARRAYS, parts_of
from launchers.sweep.outcome import PointEnd, last_words, row_of
from launchers.sweep.points import Point, Sweep
from launchers.sweep.results import Results, Row, add_rows, read_results
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import Event, events_in, events_name


class Progress(StrEnum):
    MEASURED = "measured"
    FAILED = "failed"
    QUEUED = "queued"
    """It waits or runs on SLURM."""
    TO_DO = "to do"


@dataclass(frozen=True, kw_only=True)
class PointState:
    point: Point
    progress: Progress
    row: Row | None = None
    """Where it is measured or failed; none where a job ended without a word."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepState:
    points: tuple[PointState, ...]
    """In the sweep's order."""
    doubts: tuple[str, ...]
    """What could not be read, and rows of points that the sweep does not have: a line each."""

    def rows(self) -> list[Row]:
        return [state.row for state in self.points if state.row is not None]

    def of(self, *progress: Progress) -> list[PointState]:
        return [state for state in self.points if state.progress in progress]


Queue = Callable[[], Sequence[QueuedJob]]
"""Asks SLURM for its jobs, as `queue.queued` does."""


def look(sweep: Sweep, queue: Queue) -> SweepState:
    """Also writes down what has ended since somebody looked. Raises UserError.

    SLURM is asked once, and only where a point was submitted and has told of no end: elsewhere there may be none.
    """
    queue = cache(queue)
    results = read_results(sweep.folder)
    launches = list(_launches(sweep.folder))
    states = tuple(_state(point, results.rows.get(point.digest), launches, queue, sweep) for point in sweep.points)
    if new := [state.row for state in states if state.row is not None and state.row != results.rows.get(state.row.digest)]:
        add_rows(sweep.folder, new)
    return SweepState(points=states, doubts=tuple(_doubts(sweep, results)))


def _doubts(sweep: Sweep, results: Results) -> Iterator[str]:
    yield from results.spoilt
    others = results.rows.keys() - {point.digest for point in sweep.points}
    if others:
        yield f"{len(others)} rows of the results are of points that this sweep, or the config of its runs, no longer has: left out"


@dataclass(frozen=True, kw_only=True)
class _Launched:
    folder: Path
    launch: Launch
    parts: dict[str, int]
    """By the point's digest."""
    at: float


def _launches(folder: Path) -> Iterator[_Launched]:
    """The newest first."""
    found = [each for home in sorted((folder / ARRAYS).glob("*")) for each in launch_folders(home) if (each / SCRIPT).exists()]
    for each in sorted(found, key=lambda one: (one / SCRIPT).stat().st_mtime, reverse=True):
        yield _Launched(folder=each, launch=read_launch(each), parts=parts_of(each), at=(each / SCRIPT).stat().st_mtime)


def _state(point: Point, row: Row | None, launches: Sequence[_Launched], queue: Queue, sweep: Sweep) -> PointState:
    newest = next((each for each in launches if point.digest in each.parts), None)
    if row is not None and (row.measured is not None or newest is None or row.at >= newest.at):
        return _ended(point, row)
    if newest is not None:
        return _submitted(point, newest, queue, sweep)
    return _found_here(point, sweep)


def _ended(point: Point, row: Row) -> PointState:
    if row.failed is not None:
        code = "" if row.failed.code is None else f"exit code {row.failed.code}: "
        return PointState(point=point, progress=Progress.FAILED, row=row, detail=f"{code}{row.failed.reason}")
    assert row.measured is not None
    return PointState(point=point, progress=Progress.MEASURED, row=row, detail=f"{row.measured.samples_per_s:.4g} samples/s")


def _submitted(point: Point, launched: _Launched, queue: Queue, sweep: Sweep) -> PointState:
    part, job = launched.parts[point.digest], (launched.launch.jobs or ("-",))[-1]
    told = launched.folder / events_name(part)
    last = _last_event(told)
    queued: list[QueuedJob] = []
    if not _is_over(last):
        queued = [each for each in queue() if each.script.is_relative_to(launched.folder)]
        last = _last_event(told)  # it may have ended while SLURM was asked
    logs = tuple(launched.folder / LOGS / f"{job}_{part}{end}.log" for end in ("", "_batch"))
    if last is not None and last.event == "end" and (_is_over(last) or not queued):
        at = max(float(last.at), launched.at)  # an event has whole seconds
        end = PointEnd(code=last.code, at=at, commit=launched.launch.commit, logs=logs, why=last.why)
        return _ended(point, row_of(point, end, sweep.config.warmup_steps))
    if queued:
        started = f"on {last.nodes}" if last is not None and last.event == "start" else _waits(queued)
        return PointState(point=point, progress=Progress.QUEUED, detail=f"job {job}_{part} {started}")
    # Cancelled, or its node died; or it was submitted after the queue was asked, so that nothing is written down.
    return PointState(point=point, progress=Progress.FAILED, detail=f"job {job}_{part} has told of no end: {last_words(logs)}")


def _waits(queued: Sequence[QueuedJob]) -> str:
    """With SLURM's reason, of the tasks of an array that wait for the same."""
    reasons = [each.reason for each in queued if each.state == "PENDING" and each.reason not in ("", "None")]
    return f"waits ({reasons[0]})" if reasons else "waits"


def _is_over(last: Event | None) -> bool:
    """Whether nobody starts the point again, by the last word of its job: one whose nodes SLURM took, it may."""
    return last is not None and last.event == "end" and last.next != "taken"


def _last_event(told: Path) -> Event | None:
    events = events_in(told)
    return events[-1] if events else None


def _found_here(point: Point, sweep: Sweep) -> PointState:
    """One that ran here, and whose row was lost or never written."""
    from launchers.sweep.measure import has_finished

    if not has_finished(point.run.run_dir):
        return PointState(point=point, progress=Progress.TO_DO)
    row = row_of(point, PointEnd(code=ExitCode.FINISHED, at=time.time(), commit=None, logs=()), sweep.config.warmup_steps)
    # Without figures: its ranks may be about to write theirs, and who runs it writes down what becomes of it.
    return PointState(point=point, progress=Progress.TO_DO) if row.measured is None else _ended(point, row)
