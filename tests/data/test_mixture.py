import pytest

from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.data.mixture import StepPlan

SCHEDULE = (
    PhaseConfig(steps=400, text=0.3, image_text=0.7),
    PhaseConfig(steps=1000, text=1.0, image_text=2.0, video_text=7.0, frames=8),
    PhaseConfig(steps=50, video_text=1.0),
)


def make_plan(seed: int = 3) -> StepPlan:
    return StepPlan(SCHEDULE, seed=seed, global_batch=32)


def test_every_step_continues_its_stream() -> None:
    plan = make_plan()
    consumed = dict.fromkeys(Task, 0)
    for step in range(len(plan)):
        planned = plan[step]
        assert planned.step == step
        assert planned.stream_position == consumed[planned.task]
        assert plan.consumed(planned.task, step) == consumed[planned.task]
        consumed[planned.task] += 32


def test_phases_and_tasks_follow_the_schedule() -> None:
    plan = make_plan()
    assert len(plan) == 1450
    assert [plan[step].phase for step in (0, 399, 400, 1399, 1400)] == [SCHEDULE[place] for place in (0, 0, 1, 1, 2)]
    assert all(plan[step].task is not Task.VIDEO_TEXT for step in range(400))
    assert all(plan[step].task is Task.VIDEO_TEXT for step in range(1400, 1450))
    assert plan.tasks == (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT)


def test_only_tasks_with_a_share_are_planned() -> None:
    plan = StepPlan((PhaseConfig(steps=500, image_text=0.3, video_text=0.7),), seed=0, global_batch=1)
    assert plan.tasks == (Task.IMAGE_TEXT, Task.VIDEO_TEXT)
    assert {plan[step].task for step in range(500)} == {Task.IMAGE_TEXT, Task.VIDEO_TEXT}


def test_any_stretch_has_the_shares() -> None:
    """Of independent draws every second stretch would be off by more."""
    plan = make_plan()
    for begin in range(400, 1300, 37):
        tasks = [plan[step].task for step in range(begin, begin + 100)]
        for task, share in ((Task.TEXT, 10), (Task.IMAGE_TEXT, 20), (Task.VIDEO_TEXT, 70)):
            assert abs(tasks.count(task) - share) <= 3


def test_seed_decides() -> None:
    tasks = [[plan[step].task for step in range(400)] for plan in (make_plan(3), make_plan(3), make_plan(4))]
    assert tasks[0] == tasks[1] != tasks[2]


def test_a_longer_schedule_begins_the_same() -> None:
    short, long = (StepPlan((PhaseConfig(steps=steps, text=1, video_text=2),), seed=1, global_batch=4) for steps in (50, 200_000))
    assert [short[step].task for step in range(50)] == [long[step].task for step in range(50)]
    assert [short[step].stream_position for step in range(50)] == [long[step].stream_position for step in range(50)]


@pytest.mark.parametrize("step", [-1, 1450])
def test_steps_outside_the_schedule(step: int) -> None:
    with pytest.raises(IndexError):
        make_plan()[step]
