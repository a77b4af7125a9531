"""Which steps are bad, on real ranks."""

import math

import pytest
import torch.distributed as dist
from pydantic import TypeAdapter

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.training.guard import FEWEST, WINDOW, Guard, Recent
from tests.ranks import run_ranks
from tests.training import cases


def config(factor: float) -> RunConfig:
    base = cases.config(LayoutConfig())
    return base.model_copy(update={"training": base.training.model_copy(update={"spike_factor": factor})})


def judged(guard: Guard, loss: float, norm: float = 1.0, task: Task = Task.TEXT, finite: bool = True) -> str | None:
    bad = guard.judge(task, {Objective.MLM: loss}, norm, finite_here=finite)
    return bad.reason if bad else None


def judge_some() -> list[str | None]:
    guard = Guard(config(3.0), {})
    first_only = dist.get_rank() == 0
    early = judged(guard, 50.0), judged(guard, math.nan), judged(guard, 1.0, norm=math.inf), judged(guard, 1.0, finite=not first_only)
    for _ in range(FEWEST):
        assert judged(guard, 2.0) is None
    late = (
        judged(guard, 5.9),
        judged(guard, 6.1 if first_only else 2.0),
        judged(guard, 2.0, norm=3.1),
        judged(guard, 50.0, task=Task.IMAGE_TEXT),
    )
    return [*early, *late]


def test_all_ranks_find_the_same_steps_bad() -> None:
    said, other = run_ranks(2, judge_some)
    assert [line is None for line in said] == [line is None for line in other]
    assert said[0] is None, "no spike before there is a median"
    assert all(line is not None and line.startswith("a loss or gradient is no number") for line in said[1:4])
    assert said[4] is None
    assert said[5] == "a spike (gradient norm 1, losses mlm 6.1; usual: gradient norm 1, weighted loss 2; training.spike_factor=3)"
    assert said[6] is not None and said[6].startswith("a spike (gradient norm 3.1")
    assert said[7] is None, "another task has another median"


def resume_in_the_middle() -> None:
    def losses(step: int) -> float:
        return 2.0 + math.sin(step) + (30.0 if step % 29 == 28 else 0.0)

    straight, moved = Guard(config(2.0), {}), Guard(config(2.0), {})
    bad = 0
    for step in range(2 * WINDOW):
        if step == WINDOW + 5:
            kind = TypeAdapter(Recent)
            moved = Guard(config(2.0), kind.validate_json(kind.dump_json(moved.recent)))
        found = judged(straight, losses(step), norm=losses(step) / 3)
        assert judged(moved, losses(step), norm=losses(step) / 3) == found
        bad += found is not None
    assert moved.recent == straight.recent and len(moved.recent[Task.TEXT]) == WINDOW
    assert bad >= 3


def test_a_resume_goes_on_with_the_same_medians() -> None:
    run_ranks(1, resume_in_the_middle)


def test_without_a_factor_nothing_is_a_spike() -> None:
    def judge() -> None:
        guard = Guard(config(0.0), {})
        assert [judged(guard, 1.0 if step < FEWEST else 1e9) for step in range(FEWEST + 1)] == [None] * (FEWEST + 1)

    run_ranks(1, judge)


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_factor_that_calls_every_other_step_a_spike(factor: float) -> None:
    from megatron_mplug2.config.checks import run_errors

    assert run_errors(config(factor)) == [
        f"training.spike_factor={factor} would call every other step a spike: it must be more than 1, or 0 for none"
    ]
