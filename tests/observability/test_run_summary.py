"""The sum of a run's starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.observability.job_events import LAUNCH, LAUNCHES, Event, append_event
from megatron_mplug2.observability.run_history import FINISHED, HISTORY_NAME, STOPPED, RunHistory, read_history
from megatron_mplug2.observability.run_summary import SUMMARY_NAME, read_summary, summary_line, write_summary
from megatron_mplug2.observability.spent import Progress, Use


def summed(folder: Path, productive_s: float, steps_left_out: int) -> dict[str, Any]:
    return write_summary(folder, step=12, steps=12, productive_s=productive_s, steps_left_out=steps_left_out)


def test_the_summary_counts_over_all_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("megatron_mplug2.observability.run_history.time.time", lambda: now[0])
    history = RunHistory(tmp_path)
    history.started(0, LayoutConfig(), [0])
    history.saving(4)
    history.bad_step(5, "a spike")
    history.rolled_back(6, to=4)
    now[0] += 50
    history.ended(7, "stopped")
    now[0] += 100
    history = RunHistory(tmp_path)
    history.started(7, LayoutConfig(), [0])
    now[0] += 50
    history.ended(12, FINISHED)
    summary = summed(tmp_path, productive_s=60.0, steps_left_out=2)
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
    history = RunHistory(tmp_path)
    history.started(0, LayoutConfig(), [0], began=1000.0)
    now[0] += 30
    history.ended(12, FINISHED)
    summary = summed(tmp_path, productive_s=20.0, steps_left_out=0)
    assert (summary["wall_s"], summary["effective_training_time"]) == (40.0, 0.5)
    assert "in 40.0 s since the first start; 1 start, 0 steps lost" in summary_line(summary)
    before = (tmp_path / HISTORY_NAME).read_bytes()
    for _ in range(2):
        now[0] += 500
        history = RunHistory(tmp_path)
        history.started(12, LayoutConfig(), [0], productive_s=20.0, began=now[0] - 5)
        history.ended(12, FINISHED)
        assert summed(tmp_path, productive_s=20.0, steps_left_out=0) == summary
    assert (tmp_path / HISTORY_NAME).read_bytes() == before
    more = RunHistory(tmp_path)
    more.started(12, LayoutConfig(), [0], productive_s=20.0)
    more.ended(24, FINISHED)
    assert [event["event"] for event in read_history(tmp_path)[0]] == ["start", "end"] * 2, "steps that were added are done"


def job(launches: Path, number: int, command: str, *events: tuple[str, int]) -> Path:
    """A launch's folder, and what its job's script told at which time."""
    folder = launches / f"{number:04d}"
    folder.mkdir(parents=True)
    (folder / LAUNCH).write_text(json.dumps({"command": [command, "run.yaml"]}))
    for what, at in events:
        append_event(folder, Event(at=at, job=number, restarts=0, event=what, code=1 if what == "end" else None))
    return folder


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the run's folder", "in a study's"])
def test_starts_that_failed_before_their_first_step_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """Before the first one that trained, and after the last; an evaluation is no start. Where a step took 60 of 160 s, then of 260 s."""
    run, now = tmp_path / "run", [1110.0]
    monkeypatch.setattr("megatron_mplug2.observability.run_history.time.time", lambda: now[0])
    launches = (tmp_path / "study" if elsewhere else run) / LAUNCHES
    job(launches, 1, "pretrain", ("submit", 900), ("start", 1000), ("end", 1050))
    own = job(launches, 2, "pretrain", ("submit", 1080), ("start", 1100))
    job(launches, 3, "evaluate", ("submit", 1), ("start", 2), ("end", 3))
    (launches / "0004").mkdir()
    run.mkdir(exist_ok=True)
    history = RunHistory(run)
    history.started(0, LayoutConfig(), [0], began=1105.0, launch=str(own) if elsewhere else None)
    now[0] = 1160.0
    history.ended(5, STOPPED, Progress(productive_s=40.0, spent={Use.STEPS: 40.0}))
    told = summed(run, productive_s=40.0, steps_left_out=0)
    assert (told["starts"], told["wall_s"], told["effective_training_time"]) == (2, 160.0, 0.25)
    append_event(own, Event(at=1165, job=2, restarts=0, event="end", code=85))
    assert read_summary(run) == told, "the time in which its processes part is no other run's"
    job(launches, 5, "pretrain", ("submit", 1170), ("start", 1180), ("end", 1200))
    now_told = read_summary(run)
    assert (now_told["starts"], now_told["wall_s"], now_told["effective_training_time"]) == (3, 200.0, 0.2)
