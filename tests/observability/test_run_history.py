"""Starts, ends and lost steps of a run, and their sum."""

import json
from pathlib import Path
from typing import Any

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.observability.log import RunLog
from megatron_mplug2.observability.run_history import FINISHED, HISTORY_NAME, STOPPED, RunHistory
from megatron_mplug2.observability.spent import Progress, SpentClock, Use
from tests.observability.samples import metrics_of


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / HISTORY_NAME).read_text().splitlines()]
    times = ("at", "began", "productive_s", "spent")
    return [{name: value for name, value in line.items() if name not in times} for line in lines]


def log_steps(folder: Path, first: int, last: int) -> None:
    with RunLog(folder, first) as log:
        for step in range(first, last + 1):
            log.step(metrics_of(step))


def test_a_killed_start_is_told_by_the_next(tmp_path: Path) -> None:
    assert RunHistory(tmp_path).started(0, LayoutConfig(data=2), [0]) == 0
    log_steps(tmp_path, 0, 7)
    assert RunHistory(tmp_path).started(5, LayoutConfig(data=2, pipeline=2), [0, 9]) == 3
    log_steps(tmp_path, 5, 11)
    history = RunHistory(tmp_path)
    history.ended(12, FINISHED)
    assert events(tmp_path) == [
        {"event": "start", "step": 0, "world_size": 2, "lost_steps": 0, "tensor": 1, "pipeline": 1, "data": 2, "stage_starts": [0]},
        {"event": "end", "step": 8, "reason": "ended without a word"},
        {"event": "start", "step": 5, "world_size": 4, "lost_steps": 3, "tensor": 1, "pipeline": 2, "data": 2, "stage_starts": [0, 9]},
        {"event": "end", "step": 12, "reason": "finished"},
    ]
    assert RunHistory(tmp_path).started(12, LayoutConfig(), [0]) == 0


def test_each_checkpoint_tells_where_the_time_went(tmp_path: Path) -> None:
    """So that a start that is killed has told of all that it saved."""
    history = RunHistory(tmp_path)
    history.started(0, LayoutConfig(), [0], productive_s=1.5, began=1000.0)
    clock = SpentClock()
    clock.took(Use.STEPS)
    history.saving(4, Progress(productive_s=2.5, spent=clock.spent))
    history.ended(5, STOPPED, Progress(productive_s=3.5, spent={Use.CHECKPOINT: 0.12345}))
    start, checkpoint, end = (json.loads(line) for line in (tmp_path / HISTORY_NAME).read_text().splitlines())
    assert (start["productive_s"], start["began"]) == (1.5, 1000.0)
    assert checkpoint["productive_s"] == 2.5 and list(checkpoint["spent"]) == ["steps", "logging", "validation", "checkpoint"]
    assert (end["productive_s"], end["spent"]) == (3.5, {"checkpoint": 0.123})


def test_spoilt_lines_are_left_out(tmp_path: Path) -> None:
    RunHistory(tmp_path).started(0, LayoutConfig(), [0])
    with (tmp_path / HISTORY_NAME).open("ab") as file:
        file.write(b"\0\0\n[]\n{}\n")
    assert RunHistory(tmp_path).started(0, LayoutConfig(), [0]) == 0
    assert [event["event"] for event in events(tmp_path)] == ["start", "end", "start"]
