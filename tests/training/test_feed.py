"""Steps that are moved one ahead: in their order, with what a step raises in its turn, and nothing left running."""

import threading
from collections.abc import Iterator

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.training.feed import Given, one_ahead
from tests.training import cases

STEPS = 4


class Source:
    """Batches of text; `fails_at`: the step that it raises at."""

    def __init__(self, fails_at: int = STEPS) -> None:
        self.fails_at, self.asked, self.closed = fails_at, 0, False

    def __iter__(self) -> Iterator[Given]:
        try:
            for step in range(STEPS):
                self.asked += 1
                if step == self.fails_at:
                    raise RuntimeError(f"no step {step}")
                yield PlannedStep(step=step, task=Task.TEXT, phase=cases.PHASE, stream_position=0), [cases.text_batch(step)]
        finally:
            self.closed = True


def moved(batches: list[Batch]) -> list[Batch]:
    assert threading.current_thread() is not threading.main_thread()
    return batches


def test_all_steps_come_in_order_and_one_is_asked_for_ahead() -> None:
    source = Source()
    for number, (planned, batches) in enumerate(one_ahead(source, moved)):
        assert planned.step == number and source.asked == min(number + 2, STEPS)
        assert torch.equal(batches[0].sample_ids, cases.text_batch(number).sample_ids)
    assert number == STEPS - 1 and source.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("to-device")]


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_failure_comes_in_its_turn(fails_at: int) -> None:
    steps = one_ahead(Source(fails_at), moved)
    assert [next(steps)[0].step for _ in range(fails_at)] == list(range(fails_at))
    with pytest.raises(RuntimeError, match=f"no step {fails_at}"):
        next(steps)


def test_a_failure_to_move_is_that_steps() -> None:
    def full(batches: list[Batch]) -> list[Batch]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(one_ahead(Source(), full))


def test_breaking_off_closes_the_source() -> None:
    source = Source()
    steps = one_ahead(source, moved)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    del steps
    assert source.closed and not [thread for thread in threading.enumerate() if thread.name.startswith("to-device")]
