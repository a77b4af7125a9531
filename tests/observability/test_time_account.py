"""Where a run's time went, from records whose answer is known."""

from typing import Any

import pytest

from megatron_mplug2.observability.job_events import Event
from megatron_mplug2.observability.time_account import NO_END, NO_STEP, Account, Part, account


def start(at: float, step: int, productive_s: float, began: float | None = None) -> dict[str, Any]:
    return {"event": "start", "at": at, "step": step, "lost_steps": 0, "productive_s": productive_s, "began": began}


def told(event: str, at: float, step: int, productive_s: float, *, reason: str = "", **spent: float) -> dict[str, Any]:
    return {"event": event, "at": at, "step": step, "reason": reason, "productive_s": productive_s, "spent": spent}


def killed(at: float, step: int) -> dict[str, Any]:
    """As the next start writes it."""
    return {"event": "end", "at": at, "step": step, "reason": "ended without a word"}


def job(event: str, at: int, restarts: int = 0, number: int = 7) -> Event:
    return Event(at=at, job=number, restarts=restarts, event=event, code=1 if event == "end" else None)


def parts(found: Account, number: int) -> dict[str, float]:
    """Of a start, without those that are nothing."""
    return {part.value: round(seconds, 6) for part, seconds in found.starts[number].seconds.items() if seconds}


LOCAL = [
    start(110, 0, 0, began=100),
    told("checkpoint", 121, 5, 8.0, steps=8.0, checkpoint=1.0, validation=2.0),
    killed(125, 7),
    start(155, 5, 8.0, began=150),
    told("end", 170, 12, 20.0, reason="finished", steps=12.0, logging=0.5, checkpoint=1.5),
]


def test_a_killed_start_and_one_that_ends_well() -> None:
    found = account(LOCAL, [], last_sign=170)
    assert parts(found, 0) == {"start-up until the first step": 10, "steps": 8, "lost steps": 4, "checkpoint stalls": 1, "validation": 2}
    assert parts(found, 1) == {
        "not submitted": 25,
        "start-up until the first step": 5,
        "steps": 12,
        "checkpoint stalls": 1.5,
        "logging": 0.5,
        "shutdown": 1,
    }
    assert (found.wall_s, found.lost_steps) == (70, 2) and found.effective == pytest.approx(20 / 70)
    assert [(each.step, each.reached, each.reason) for each in found.starts] == [(0, 7, "ended without a word"), (5, 12, "finished")]


def test_the_queue_a_health_check_and_a_requeue() -> None:
    """A job that waits, is sent back before its first step, trains, is killed, waits, and trains to its end."""
    events = [
        job("submit", 50),
        job("start", 60),
        job("unhealthy", 68),
        job("end", 70),
        job("start", 90, 1),
        job("end", 130, 1),
        job("start", 140, 2),
        job("end", 172, 2),
    ]
    found = account(LOCAL, events, last_sign=170)
    assert parts(found, 0) == {"waiting in the queue": 10, "start-up until the first step": 10}
    assert found.starts[0].reason == NO_STEP
    assert parts(found, 1) == {
        "waiting in the queue": 20,
        "start-up until the first step": 20,
        "steps": 8,
        "lost steps": 9,
        "checkpoint stalls": 1,
        "validation": 2,
    }
    assert parts(found, 2)["waiting in the queue"] == 10 and parts(found, 2)["shutdown"] == 1, "to the run's own end"
    assert found.wall_s == 170 - 50
    assert found.since_begin_s == 170 - 60 and found.effective == pytest.approx(20 / 110), "the first wait is none of the run's"


def test_starts_of_a_finished_run_are_left_out() -> None:
    """They write no history, and had nothing to do."""
    events = [job("start", 90), job("end", 126), job("start", 148, 1), job("end", 172, 1)]
    again = [job("submit", 900, number=8), job("start", 910, number=8), job("end", 920, number=8)]
    assert account(LOCAL, [*events, *again], last_sign=170) == account(LOCAL, events, last_sign=170)


def test_a_new_submission_is_no_queue_until_it_is_made() -> None:
    events = [job("submit", 90), job("start", 95), job("end", 126), job("submit", 140, number=8), job("start", 148, number=8)]
    found = account(LOCAL, events, last_sign=170)
    assert parts(found, 1)["not submitted"] == 14 and parts(found, 1)["waiting in the queue"] == 8


def test_steps_that_were_undone_are_lost() -> None:
    """By a rollback, by a step without an update, and by a checkpoint that turned out damaged two starts later."""
    history = [
        start(0, 0, 0),
        told("checkpoint", 10, 5, 10.0, steps=10.0),
        {"event": "roll back", "at": 14, "step": 7, "to": 5, "lost_steps": 2},
        told("end", 20, 9, 15.0, reason="stopped", steps=20.0),
        start(30, 9, 15.0),
        told("end", 40, 12, 25.0, reason="stopped", steps=10.0),
        start(50, 5, 10.0),
    ]
    found = account(history, [], last_sign=55)
    assert [round(each.seconds[Part.STEPS], 3) for each in found.starts] == [10.0, 0.0, 0.0]
    assert [each.lost_steps for each in found.starts] == [2, 7, 0]
    assert [round(each.seconds[Part.LOST], 3) for each in found.starts] == [10.0, 10.0, 5.0]
    assert found.starts[2].reason == NO_END


def test_spoilt_and_old_records_are_no_trouble() -> None:
    """Without times of its uses, all of a start that ended well counts as parting."""
    history = [
        {"event": "start", "at": 10.0, "step": 0},
        {"event": "end", "at": 15.0, "step": 3, "reason": "finished", "spent": {"steps": "x"}},
    ]
    assert parts(account(history, [], last_sign=15), 0) == {"shutdown": 5}
    assert account([], [], last_sign=0).effective is None
