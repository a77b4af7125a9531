"""Worker processes that compute a function of each item ahead of time, in order.

A sample may hang its decoder, or crash it. Its worker is then replaced and the item computed anew; a sample that does so again is left
out by the computation itself, which is told of it.
"""

import logging
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from megatron_mplug2.data.watch import SampleInWork, Watch
from megatron_mplug2.data.worker_process import Failed, LostWorker, WorkerProcess
from megatron_mplug2.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIES = 2
"""Workers that a sample may cost before it is given up, or an item outside of its samples before the run is."""
_AT_ONCE = 2
"""Items that one worker has at a time: it need not wait for its parent between them, and what takes long holds up little else."""
_LONGEST_WAIT_S = 1.0

_log = logging.getLogger(__name__)


class Workers(Generic[Item, Result]):
    """Iterates over `compute(item, watch)`; the computation tells its Watch which sample it works on.

    `count` forked processes (see WorkerProcess) compute them, together at most `ahead` items ahead. A worker that is busy with one sample
    for `timeout_s` seconds is killed.

    The results don't depend on `count`. Raises UserError where `compute` does, RuntimeError with the traceback for any other exception
    of a worker's. Close it, or read it to its end.
    """

    def __init__(
        self, compute: Callable[[Item, Watch], Result], items: Sequence[Item], *, count: int, ahead: int, timeout_s: float
    ) -> None:
        self._compute = compute
        self._items = items
        self._ahead = ahead
        self._timeout_s = timeout_s
        self._next = 0
        """Place of the item that is handed out next."""
        self._unassigned = range(len(items))
        """Places that no worker was given yet."""
        self._again: list[int] = []
        """Places that were lost with their worker, ascending."""
        self._results: dict[int, Any] = {}
        self._losses: defaultdict[int, Counter[SampleInWork | None]] = defaultdict(Counter)
        """By place: workers that were lost, by the sample in work."""
        self._given_up: defaultdict[int, dict[SampleInWork, str]] = defaultdict(dict)
        self._workers: list[WorkerProcess] = []
        for _ in range(min(count, ahead, len(items))):
            self._fork()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._next == len(self._items):
            self.close()
            raise StopIteration
        result = self._computed(self._next)
        self._next += 1
        self._assign()  # so that they go on while the caller is busy
        return result

    def close(self) -> None:
        """Ends the processes at once."""
        self._next = len(self._items)
        for worker in self._workers:
            worker.kill()
        while self._workers:
            self._workers.pop().exit_code()
        self._results.clear()

    def _fork(self) -> None:
        self._workers.append(WorkerProcess(lambda place, watch: self._compute(self._items[place], watch), self._workers))

    def _computed(self, place: int) -> Result:
        self._attend(wait_s=0)
        while place not in self._results:
            self._attend(wait_s=_LONGEST_WAIT_S)
        result = self._results.pop(place)
        for found in (self._losses, self._given_up):
            found.pop(place, None)
        if isinstance(result, Failed):
            self.close()
            raise result.error
        return result

    def _attend(self, wait_s: float) -> None:
        """Gives out work, takes the results that are there or come in this time, replaces workers that are lost."""
        self._assign()
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout=min(wait_s, self._shortest_time_left())):
            self._take(by_connection[connection])  # type: ignore[index]
        for worker in [worker for worker in self._workers if self._time_left(worker) <= 0]:
            worker.kill()
            worker.exit_code()
            self._replace(worker, f"the decoder hung for {self._timeout_s:g} s")

    def _take(self, worker: WorkerProcess) -> None:
        """All results that a worker has sent: the clock of one that waits to be taken stands still."""
        try:
            while worker.connection.poll():
                place, result = worker.receive()
                self._results[place] = result
        except LostWorker:
            worker.kill()  # if its connection is broken and it still lives
            self._replace(worker, f"the decoder crashed ({_way_of_ending(worker.exit_code())})")

    def _assign(self) -> None:
        """The nearest places first, each to the worker that has least to do."""
        while self._again or (self._unassigned and self._unassigned[0] < self._next + self._ahead):
            worker = min(self._workers, key=lambda worker: len(worker.assigned))
            if len(worker.assigned) >= _AT_ONCE:
                return
            if self._again:
                place = self._again.pop(0)
            else:
                place, self._unassigned = self._unassigned[0], self._unassigned[1:]
            worker.assign(place, self._given_up[place])

    def _time_left(self, worker: WorkerProcess) -> float:
        since = worker.note.since
        if not worker.assigned or not since:
            return self._timeout_s
        return since + self._timeout_s - time.monotonic()

    def _shortest_time_left(self) -> float:
        return max(min(self._time_left(worker) for worker in self._workers), 0)

    def _replace(self, worker: WorkerProcess, reason: str) -> None:
        """Raises UserError where that was tried often enough."""
        self._workers.remove(worker)
        sample = worker.note.sample
        if worker.assigned:
            place = worker.assigned[0]
            self._losses[place][sample] += 1
            self._judge(place, sample, reason)
        self._again = sorted([*self._again, *worker.assigned])
        self._fork()

    def _judge(self, place: int, sample: SampleInWork | None, reason: str) -> None:
        """Whether what was lost at a place is tried again."""
        again = self._losses[place][sample] < TRIES
        _log.warning("%s: %s; %s", sample or f"batch {place}", reason, "trying again" if again else "giving it up")
        if sample and not again:
            self._given_up[place][sample] = reason
        elif not again:
            self.close()
            raise UserError(
                f"{reason} {TRIES} times outside of any sample: look at this machine's memory and lower data.workers or data.prefetch"
            )


def _way_of_ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code}{', out of memory?' if code == -signal.SIGKILL else ''}"
