"""Starts, ends and lost steps of a run, and their sum."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.observability.log import RunLog
from megatron_mplug2.observability.run_history import FINISHED, HISTORY_NAME, STOPPED, SUMMARY_NAME, RunHistory, summary_line
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
    assert RunHistory(tmp_path, 12).started(0, LayoutConfig(data=2), [0]) == 0
    log_steps(tmp_path, 0, 7)
    assert RunHistory(tmp_path, 12).started(5, LayoutConfig(data=2, pipeline=2), [0, 9]) == 3
    log_steps(tmp_path, 5, 11)
    history = RunHistory(tmp_path, 12)
    history.ended(12, FINISHED)
    assert events(tmp_path) == [
        {"event": "start", "step": 0, "world_size": 2, "lost_steps": 0, "tensor": 1, "pipeline": 1, "data": 2, "stage_starts": [0]},
        {"event": "end", "step": 8, "reason": "ended without a word"},
        {"event": "start", "step": 5, "world_size": 4, "lost_steps": 3, "tensor": 1, "pipeline": 2, "data": 2, "stage_starts": [0, 9]},
        {"event": "end", "step": 12, "reason": "finished"},
    ]
    assert RunHistory(tmp_path, 12).started(12, LayoutConfig(), [0]) == 0


def test_each_checkpoint_tells_where_the_time_went(tmp_path: Path) -> None:
    """So that a start that is killed has told of all that it saved."""
    history = RunHistory(tmp_path, 12)
    history.started(0, LayoutConfig(), [0], productive_s=1.5, began=1000.0)
    clock = SpentClock()
    clock.took(Use.STEPS)
    history.saving(4, Progress(productive_s=2.5, spent=clock.spent))
    history.ended(5, STOPPED, Progress(productive_s=3.5, spent={Use.CHECKPOINT: 0.12345}))
    start, checkpoint, end = (json.loads(line) for line in (tmp_path / HISTORY_NAME).read_text().splitlines())
    assert (start["productive_s"], start["began"]) == (1.5, 1000.0)
    assert checkpoint["productive_s"] == 2.5 and list(checkpoint["spent"]) == ["steps", "logging", "validation", "checkpoint"]
    assert (end["productive_s"], end["spent"]) == (3.5, {"checkpoint": 0.123})


def test_the_summary_counts_over_all_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("megatron_mplug2.observability.run_history.time.time", lambda: now[0])
    history = RunHistory(tmp_path, 12)
    history.started(0, LayoutConfig(), [0])
    history.saving(4)
    history.bad_step(5, "a spike")
    history.rolled_back(6, to=4)
    now[0] += 50
    history.ended(7, "stopped")
    now[0] += 100
    history = RunHistory(tmp_path, 12)
    history.started(7, LayoutConfig(), [0])
    now[0] += 50
    history.ended(12, FINISHED)
    summary = history.summarise(12, productive_s=60.0, steps_left_out=2)
    assert summary == json.loads((tmp_path / SUMMARY_NAME).read_text())
    assert summary == {
        "step": 12,
        "steps": 12,
        "starts": 2,
        "wall_s": 200.0,
        "productive_s": 60.0,
        "effective_training_time": 0.3,
        "lost_steps": 2,
        "steps_left_out": 2,
        "end": "finished",
    }
    assert summary_line(summary).startswith("effective training time 30.0 % (60.0 s of steps in 200.0 s since the first start; 2 starts, 2")


def test_time_counts_from_where_the_first_command_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from its first step; and repeating the command on the finished run, which does no step, changes none of its figures."""
    now = [1010.0]
    monkeypatch.setattr("megatron_mplug2.observability.run_history.time.time", lambda: now[0])
    history = RunHistory(tmp_path, 12)
    history.started(0, LayoutConfig(), [0], began=1000.0)
    now[0] += 30
    history.ended(12, FINISHED)
    summary = history.summarise(12, productive_s=20.0, steps_left_out=0)
    assert (summary["wall_s"], summary["effective_training_time"]) == (40.0, 0.5)
    assert "in 40.0 s since the first start; 1 start, 0 steps lost" in summary_line(summary)
    before = (tmp_path / HISTORY_NAME).read_bytes()
    for _ in range(2):
        now[0] += 500
        history = RunHistory(tmp_path, 12)
        history.started(12, LayoutConfig(), [0], productive_s=20.0, began=now[0] - 5)
        history.ended(12, FINISHED)
        assert history.summarise(12, productive_s=20.0, steps_left_out=0) == summary
    assert (tmp_path / HISTORY_NAME).read_bytes() == before
    more = RunHistory(tmp_path, 24)
    more.started(12, LayoutConfig(), [0], productive_s=20.0)
    more.ended(24, FINISHED)
    assert [event["event"] for event in events(tmp_path)] == ["start", "end"] * 2, "steps that were added are done"


def test_spoilt_lines_are_left_out(tmp_path: Path) -> None:
    RunHistory(tmp_path, 12).started(0, LayoutConfig(), [0])
    with (tmp_path / HISTORY_NAME).open("ab") as file:
        file.write(b"\0\0\n[]\n{}\n")
    assert RunHistory(tmp_path, 12).started(0, LayoutConfig(), [0]) == 0
    assert [event["event"] for event in events(tmp_path)] == ["start", "end", "start"]
