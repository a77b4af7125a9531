"""Worker processes: order, errors, and how they end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from megatron_mplug2.data.watch import Watch
from megatron_mplug2.data.workers import Workers
from megatron_mplug2.errors import UserError
from tests.data.processes import alive, children

ITEMS = range(12)


def square(item: int, watch: Watch) -> torch.Tensor:
    time.sleep(0.02 * (item % 3))  # so that they finish out of order
    return torch.full((3,), item * item)


def threads(item: int, watch: Watch) -> tuple[int, int, torch.Tensor]:
    return torch.get_num_threads(), os.getpid(), torch.ones(1000)


def complain(item: int, watch: Watch) -> int:
    if item == 5:
        raise UserError("item 5 is bad: take another")
    return item


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_results_are_in_order(count: int) -> None:
    assert [int(result[0]) for result in Workers(square, ITEMS, count=count, ahead=4, timeout_s=60)] == [item * item for item in ITEMS]


def test_each_process_has_one_thread() -> None:
    torch.set_num_threads(2)
    results = list(Workers(threads, ITEMS, count=2, ahead=4, timeout_s=60))
    torch.set_num_threads(1)
    assert {number for number, *_ in results} == {1} and len({process for _, process, _ in results}) == 2


@dataclass(frozen=True)
class Result:
    tensors: list[torch.Tensor]
    array: NDArray[np.int64]
    word: str


def many_kinds(item: int, watch: Watch) -> Result:
    media = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) + item
    tensors = [media, media.transpose(0, 2), media.bfloat16(), torch.empty(0, 3), torch.tensor(item), media[:1].bool()]
    return Result(tensors=tensors, array=np.arange(item), word="x" * 300_000)


def test_results_of_every_kind_arrive_whole_and_can_be_written_to() -> None:
    for item, result in enumerate(Workers(many_kinds, range(3), count=1, ahead=2, timeout_s=60)):
        wanted = many_kinds(item, Watch())
        for found, same in zip(result.tensors, wanted.tensors, strict=True):
            assert found.dtype is same.dtype and torch.equal(found, same)
            found.zero_()
        assert np.array_equal(result.array, wanted.array) and result.word == wanted.word


def numbered(item: int, watch: Watch) -> torch.Tensor:
    return torch.full((10_000,), item)


def crates(process: int | str) -> set[int]:
    """Numbers of the files that results lie in, of those that a process has open."""
    places = Path(f"/proc/{process}/fd").iterdir()
    return {place.stat().st_ino for place in places if place.is_symlink() and "memfd:batch" in os.readlink(place)}


def test_memory_of_results_is_used_again_once_nobody_holds_them() -> None:
    others, before = children(), crates("self")
    workers, last = Workers(numbered, range(60), count=1, ahead=3, timeout_s=60), deque[torch.Tensor](maxlen=2)
    first = next(workers)
    for result in islice(workers, 50):
        last.append(result)
    (worker,) = children() - others
    made = crates(worker) - before
    workers.close()
    assert set(first.tolist()) == {0} and [set(result.tolist()) for result in last] == [{49}, {50}]
    assert 3 <= len(made) <= 1 + 2 + 3 + 2  # held, last, ahead, and on the way


@pytest.mark.parametrize("count", [1, 2])
def test_user_errors_stay_one_line_and_come_in_order(count: int) -> None:
    workers = Workers(complain, ITEMS, count=count, ahead=8, timeout_s=60)
    assert [next(workers) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError) as error:
        next(workers)
    assert str(error.value) == "item 5 is bad: take another"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("read", [0, 3, 12])
def test_closing_ends_the_processes(read: int) -> None:
    before = children()
    workers = Workers(square, ITEMS, count=2, ahead=4, timeout_s=60)
    for _ in range(read):
        next(workers)
    assert len(children() - before) == 2
    workers.close()
    assert children() == before
    assert list(workers) == []


PARENT = """
import os, signal, sys, time
from pathlib import Path
from megatron_mplug2.data.watch import Watch
from megatron_mplug2.data.workers import Workers
from tests.data.test_workers import threads

def stop(number, frame):
    print("asked to stop", flush=True)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
workers = Workers(threads, range(1000), count=2, ahead=4, timeout_s=60)
kept = [next(workers) for _ in range(8)]
print(*sorted({process for _, process, _ in kept}), flush=True)
for line in sys.stdin:
    if line == "read\\n":
        print([next(workers) for _ in range(100)] and "read", flush=True)
    if line == "fail\\n":
        raise SystemExit(3)
print("bye", flush=True)
"""


class Parent:
    """A process with two workers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.workers = [int(word) for word in self.line().split()]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def workers_gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not any(alive(worker) for worker in self.workers):
                return True
            time.sleep(0.02)
        return False


def maps(process: int) -> str:
    """The files that a process has in its memory."""
    return Path(f"/proc/{process}/maps").read_text()


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    with contextlib.suppress(ProcessLookupError):
        os.killpg(parent.process.pid, signal.SIGKILL)
    parent.process.wait()


def kill(parent: Parent) -> None:
    parent.process.kill()


def fail(parent: Parent) -> None:
    parent.say("fail")


def finish(parent: Parent) -> None:
    assert parent.process.stdin is not None
    parent.process.stdin.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")
@pytest.mark.parametrize(("end", "code"), [(kill, -signal.SIGKILL), (fail, 3), (finish, 0)])
def test_workers_go_with_their_parent(parent: Parent, end: Callable[[Parent], None], code: int) -> None:
    assert len(parent.workers) == 2 and all(alive(worker) for worker in parent.workers)
    assert "memfd:batch" in maps(parent.process.pid)
    assert not any("/dev/shm" in maps(process) for process in (parent.process.pid, *parent.workers))  # nothing that outlives them
    end(parent)
    assert parent.process.wait(timeout=30) == code
    assert parent.workers_gone(2)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_leaves_the_workers_to_their_parent(parent: Parent, number: signal.Signals) -> None:
    os.killpg(parent.process.pid, number)
    assert parent.line() == "asked to stop"
    parent.say("read")
    assert parent.line() == "read" and all(alive(worker) for worker in parent.workers)
    finish(parent)
    assert parent.line() == "bye" and parent.process.wait(timeout=30) == 0
    assert parent.workers_gone(2)
