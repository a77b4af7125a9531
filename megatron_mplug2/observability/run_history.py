"""The life of a run over all its starts: a line for each start, checkpoint, bad step and end in `history.jsonl`."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.observability.last_step import last_train_step
from megatron_mplug2.observability.spent import Progress

HISTORY_NAME = "history.jsonl"

FINISHED, STOPPED = "finished", "stopped"
"""Reasons of an end in good order; any other is an accident."""


MOST_STEPS = 2**60
"""Of a run; a record that tells of more is spoilt."""
_LATEST = 253402300800.0
"""The end of the year 9999, in seconds since 1970: no clock of a calendar goes further."""


class Event(StrEnum):
    START = "start"
    CHECKPOINT = "checkpoint"
    BAD_STEP = "bad step"
    ROLL_BACK = "roll back"
    END = "end"


class RunHistory:
    """Rank 0's. Times are seconds since 1970."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._events, _ = read_history(run_dir)

    def started(
        self,
        step: int,
        layout: LayoutConfig,
        stage_starts: Sequence[int],
        *,
        productive_s: float = 0.0,
        began: float | None = None,
        launch: str | None = None,
    ) -> int:
        """The run is ready for its first step, after `step` steps, its chain of blocks cut at `stage_starts`. Returns the steps that an
        earlier start had done and that are done again.

        `productive_s`: of the steps that made the weights which it begins with. `began`: when its command did.
        `launch`: the folder of the job's launch, if it is one's. To be called before the run's record forgets the steps that were lost.
        Raises OSError where the folder cannot be written.
        """
        lost = max(0, self._reached() - step)
        if self._events and self._events[-1]["event"] != Event.END:
            self._add(Event.END, step=self._reached(), reason="ended without a word", at=last_sign(self._run_dir))
        sizes = {"tensor": layout.tensor, "pipeline": layout.pipeline, "data": layout.data}
        times: dict[str, Any] = {"productive_s": round(productive_s, 3), "began": None if began is None else round(began, 3)}
        if launch is not None:
            times["launch"] = launch
        of: dict[str, Any] = {"world_size": layout.world_size, "lost_steps": lost, **sizes, "stage_starts": list(stage_starts)}
        self._add(Event.START, step=step, **of, **times)
        return lost

    def saving(self, step: int, progress: Progress = Progress()) -> None:  # noqa: B008 (frozen)
        """A checkpoint of the weights after `step` steps was begun."""
        self._add(Event.CHECKPOINT, step=step, **progress.record())

    def bad_step(self, step: int, reason: str) -> None:
        """The step after `step` steps made no update."""
        self._add(Event.BAD_STEP, step=step, reason=reason)

    def rolled_back(self, step: int, to: int) -> None:
        """After `step` steps the weights went back to those after `to` steps."""
        self._add(Event.ROLL_BACK, step=step, to=to, lost_steps=step - to)

    def ended(self, step: int, reason: str, progress: Progress = Progress()) -> None:  # noqa: B008 (frozen)
        """After `step` steps; `reason` in one line. A start of a finished run that had nothing to do is forgotten, so that its figures
        stay."""
        if reason == FINISHED and self._had_nothing_to_do(step):
            self._events.pop()
            self._write()
        else:
            self._add(Event.END, step=step, reason=reason, **progress.record())

    def _had_nothing_to_do(self, step: int) -> bool:
        if len(self._events) < 2:
            return False
        before, last = self._events[-2:]
        ended_well = before["event"] == Event.END and before.get("reason") == FINISHED
        return ended_well and last["event"] == Event.START and last["step"] == step

    def _reached(self) -> int:
        """Steps that were done before, as far as anybody wrote it down."""
        logged = last_train_step(self._run_dir)
        ends = [event["step"] for event in self._events if event["event"] == Event.END]
        return max([0 if logged is None else logged + 1, *ends[-1:]])

    def _add(self, event: Event, *, step: int, at: float | None = None, **values: Any) -> None:
        entry = {"event": event, "at": round(time.time() if at is None else at, 3), "step": step, **values}
        self._events.append(entry)
        self._write()

    def _write(self) -> None:
        replace_text(self._run_dir / HISTORY_NAME, "".join(json.dumps(line) + "\n" for line in self._events))


def begin_of(start: Mapping[str, Any]) -> float:
    """When the command of a START event began; where nobody wrote that down, when it was ready for its first step. Seconds since 1970."""
    began, at = start.get("began"), float(start["at"])
    return min(float(began), at) if isinstance(began, int | float) and began > 0 else at


def last_sign(run_dir: Path) -> float:
    """When the run's record was written last, in seconds since 1970; 0 where there is none."""
    names = [HISTORY_NAME, "metrics.jsonl"]
    return max(((run_dir / name).stat().st_mtime for name in names if (run_dir / name).exists()), default=0.0)


def read_history(run_dir: Path) -> tuple[list[dict[str, Any]], int]:
    """A run's events, and how many lines were left out because a power cut has spoilt them. No events where there is no history."""
    path = run_dir / HISTORY_NAME
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = [event for line in lines if (event := _event(line)) is not None]
    return found, len(lines) - len(found)


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    counts = (event.get("step"), event.get("lost_steps", 0))
    at, named = event.get("at"), isinstance(event.get("event"), str)
    return event if named and isinstance(at, int | float) and 0 <= at < _LATEST and all(map(_is_count, counts)) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < MOST_STEPS


def replace_text(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
