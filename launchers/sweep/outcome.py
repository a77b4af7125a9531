"""How a point ended, as its row: measured from its run's folder, or failed with the last thing that it said."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from launchers.sweep.points import Point
from launchers.sweep.results import Failure, Measured, Row
from megatron_mplug2.errors import ExitCode

_SAID = "error: "
"""What the command begins the line with that says why it ended."""
_MOST_LETTERS = 300
_EXITED = ": Exited with exit code"
"""In srun's word of a rank that ended by itself."""
_SLURMS = "slurmstepd"
"""What SLURM's own lines in a rank's log begin with."""
STOPPED = "it was asked to stop before its end, by its time limit or a preemption: a longer time_limit_min in the profile, or fewer steps"
"""A point is not gone on with."""


@dataclass(frozen=True, kw_only=True)
class PointEnd:
    code: int | None
    """What the point exited with."""
    at: float
    """Seconds since 1970."""
    commit: str | None
    logs: tuple[Path, ...]
    """Where it printed; what the first one says counts most."""
    why: str = ""
    """What its job wrote down about that, if anything."""


def row_of(point: Point, end: PointEnd, warmup_steps: int) -> Row:
    """The point's row. Deletes the checkpoint that a measured run wrote at its end: nobody will go on from it."""
    figures = _figures(point, end, warmup_steps)
    return Row(
        digest=point.digest,
        layout=point.layout,
        global_batch=point.run.training.global_batch,
        at=end.at,
        commit=end.commit,
        measured=figures if isinstance(figures, Measured) else None,
        failed=figures if isinstance(figures, Failure) else None,
    )


def _figures(point: Point, end: PointEnd, warmup_steps: int) -> Measured | Failure:
    if end.code != ExitCode.FINISHED:
        return Failure(code=end.code, reason=STOPPED if end.code == ExitCode.STOPPED else _reason(end))
    from launchers.sweep.measure import NotMeasuredError, measure
    from megatron_mplug2.checkpoint.store import checkpoint_folder

    try:
        measured = measure(point.run, warmup_steps)
    except NotMeasuredError as error:
        return Failure(code=end.code, reason=str(error))
    shutil.rmtree(checkpoint_folder(point.run.run_dir), ignore_errors=True)
    return measured


def _reason(end: PointEnd) -> str:
    """Why a point failed: its job's word, but that a rank exited is less than what the rank printed."""
    if _EXITED not in end.why:
        return end.why or last_words(end.logs)
    printed = [line for line in _lines(end.logs[0]) if not line.startswith(_SLURMS)]
    return _last_words([printed]) or end.why


def last_words(logs: tuple[Path, ...]) -> str:
    """The last line that says an error, else the last line of all."""
    return _last_words([_lines(log) for log in logs]) or "it said nothing"


def _last_words(logs: list[list[str]]) -> str:
    errors = [line.removeprefix(_SAID) for told in logs for line in told[::-1] if line.startswith(_SAID)]
    return next(iter([*errors, *(told[-1] for told in logs if told)]), "")[:_MOST_LETTERS]


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line.strip() for line in text.splitlines() if line.strip()]
