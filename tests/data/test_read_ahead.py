"""A thread that reads ahead: order, bounds, errors, and how it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.read_ahead import ReadAhead
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.watch import SampleInWork, Watch
from megatron_mplug2.errors import UserError
from tests.data.corpus import make_config, write_corpus

ITEMS = range(12)
AHEAD = 3
PATIENCE_S = 60
SAMPLE = SampleInWork(task=Task.TEXT, dataset="texts", key="one", index=0, position=0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def reading(compute: Callable[[int, Watch], int], end_limit_s: float = PATIENCE_S) -> ReadAhead[int, int]:
    return ReadAhead(compute, ITEMS, ahead=AHEAD, end_limit_s=end_limit_s)


def thread_gone() -> bool:
    return all(thread.name != "read-ahead" for thread in threading.enumerate())


def until_closed(item: int, watch: Watch) -> int:
    """A step of samples without end."""
    while True:
        with watch.working_on(SAMPLE):
            time.sleep(0.001)


def test_results_are_in_order_and_never_more_than_asked_ahead() -> None:
    begun: list[int] = []
    asked = 0

    def compute(item: int, watch: Watch) -> int:
        assert item < asked + AHEAD
        begun.append(item)
        return item * item

    def all_begun() -> bool:
        return len(begun) == min(asked + AHEAD, len(ITEMS))

    ahead = reading(compute)
    while asked < len(ITEMS):
        asked += 1
        assert next(ahead) == (asked - 1) ** 2
        wait_for(all_begun)
    assert list(ahead) == [] and begun == list(ITEMS) and thread_gone()


@pytest.mark.parametrize("error", [UserError("item 5 is bad: take another"), KeyError("a defect")])
def test_an_error_comes_when_it_is_its_items_turn(error: Exception) -> None:
    def compute(item: int, watch: Watch) -> int:
        if item == 5:
            raise error
        return item

    ahead = reading(compute)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(type(error)) as raised:
        next(ahead)
    assert raised.value is error and thread_gone() and list(ahead) == []


@pytest.mark.parametrize("read", [0, 1, 4])
def test_closing_ends_the_thread(read: int) -> None:
    ahead = reading(lambda item, watch: item if item < 5 else until_closed(item, watch))
    assert [next(ahead) for _ in range(read)] == list(range(read))
    ahead.close()
    assert thread_gone() and list(ahead) == []


@pytest.fixture
def obeys_ctrl_c() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("obeys_ctrl_c")
def test_ctrl_c_reaches_who_waits_and_leaves_no_thread() -> None:
    def compute(item: int, watch: Watch) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return until_closed(item, watch)

    ahead = reading(compute)
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    ahead.close()
    assert thread_gone()


def test_a_computation_that_hangs_is_left_behind() -> None:
    storage_answers = threading.Event()

    def compute(item: int, watch: Watch) -> int:
        if item:
            storage_answers.wait(PATIENCE_S)
        return item

    ahead = reading(compute, end_limit_s=0.05)
    assert next(ahead) == 0
    ahead.close()
    assert not thread_gone()
    storage_answers.set()
    wait_for(thread_gone)


def test_a_loader_reads_the_same_as_without_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path)
    config = make_config(tmp_path, tmp_path / "run", data__workers=0, data__prefetch=AHEAD)

    def read() -> list[tuple[list[int], torch.Tensor | None]]:
        loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)
        batches = [batch for _, batches in loader for batch in batches]
        return [(batch.sample_ids.tolist(), batch.media if isinstance(batch, PairBatch) else None) for batch in batches]

    ahead = read()
    monkeypatch.setattr(
        "megatron_mplug2.data.settled_steps.start_reading",
        lambda compute, items, data: (compute(item, Watch()) for item in items),
    )
    for (ids, media), (same_ids, same) in zip(ahead, read(), strict=True):
        assert ids == same_ids
        assert (media is None and same is None) or (media is not None and same is not None and torch.equal(media, same))
    assert thread_gone()


def test_breaking_off_a_loader_leaves_no_thread(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    config = make_config(tmp_path, tmp_path / "run", data__workers=0)
    for _ in Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True):
        assert not thread_gone()
        break
    assert thread_gone()


@dataclass(frozen=True)
class Pixels:
    media: torch.Tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_gpu_made_is_finished_when_it_is_handed_over_and_stays_while_it_is_used() -> None:
    """The caller's stream is held up while the thread makes the next results, which must not take the memory of those in use."""

    def compute(item: int, watch: Watch) -> Pixels:
        torch.cuda._sleep(10_000_000)  # a few milliseconds
        return Pixels(media=torch.full((1 << 22,), float(item), device="cuda"))

    sums = []
    ahead: ReadAhead[int, Pixels] = ReadAhead(compute, range(40), ahead=AHEAD, end_limit_s=PATIENCE_S)
    for result in ahead:
        torch.cuda._sleep(30_000_000)
        sums.append(result.media.mean())
    assert torch.stack(sums).tolist() == [float(item) for item in range(40)]
