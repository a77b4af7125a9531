"""Steps that are moved one ahead: in their order, with what a step raises in its turn, and nothing left running."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.training.feed import Feed, Given, Move
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


@pytest.mark.parametrize(("move", "ahead"), [(moved, 1), (None, 0)])
def test_all_steps_come_in_order_and_the_next_is_asked_for_when_told(move: Move | None, ahead: int) -> None:
    source = Source()
    feed = Feed(source, move)
    for number, (planned, batches) in enumerate(feed):
        assert planned.step == number and source.asked == number + 1  # a step that is there does not wait for the one after it
        feed.fetch_next()
        feed.fetch_next()
        assert source.asked == min(number + 1 + ahead, STEPS)
        assert torch.equal(batches[0].sample_ids, cases.text_batch(number).sample_ids)
    assert number == STEPS - 1 and source.closed
    assert not movers()
    with pytest.raises(StopIteration):
        next(feed)


def movers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("to-device")]


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_failure_comes_in_its_turn(fails_at: int) -> None:
    feed = Feed(Source(fails_at), moved)
    for step in range(fails_at):
        assert next(feed)[0].step == step
        feed.fetch_next()
    with pytest.raises(RuntimeError, match=f"no step {fails_at}"):
        next(feed)
    assert not movers()


def test_a_failure_to_move_is_that_steps() -> None:
    def full(batches: list[Batch]) -> list[Batch]:
        raise RuntimeError("out of memory")

    with closing(Feed(Source(), full)) as feed, pytest.raises(RuntimeError, match="out of memory"):
        next(feed)


def test_breaking_off_closes_the_source() -> None:
    source = Source()
    feed = Feed(source, moved)
    next(feed)
    feed.fetch_next()
    feed.close()
    assert source.closed and not movers()
