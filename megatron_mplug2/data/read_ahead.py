"""Results computed ahead of time, in order: by worker processes, or by one thread of this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Generic, TypeVar

from megatron_mplug2.config.data import DataConfig
from megatron_mplug2.data.decoding_stream import DecodingStream
from megatron_mplug2.data.watch import SampleInWork, Watch
from megatron_mplug2.data.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def start_reading(
    compute: Callable[[Item, Watch], Result], items: Sequence[Item], data: DataConfig
) -> "Workers[Item, Result] | ReadAhead[Item, Result]":
    """By `data.workers` processes, or where that is 0 by a thread; `data.prefetch` items ahead. Close it, or read it to its end."""
    if data.workers:
        return Workers(compute, items, count=data.workers, ahead=data.prefetch, timeout_s=data.sample_timeout_s)
    return ReadAhead(compute, items, ahead=data.prefetch, end_limit_s=data.sample_timeout_s)


class ReadAhead(Generic[Item, Result]):
    """Iterates over `compute(item, watch)`. From the first result that is asked for on, a thread of this process computes the next ones:
    a decoder that works on the GPU cannot be used by a forked process. At most `ahead` results are there or in work beside those that
    were handed out.

    Nobody watches: a decoder that hangs or crashes takes the process with it. Raises what `compute` raises, when it is that item's turn.
    Close it, or read it to its end.
    """

    def __init__(self, compute: Callable[[Item, Watch], Result], items: Sequence[Item], *, ahead: int, end_limit_s: float) -> None:
        """`end_limit_s`: seconds that `close` waits for a sample, or a batch of samples, in work."""
        self._compute = compute
        self._items = items
        self._end_limit_s = end_limit_s
        self._next = 0
        """Place of the item that is handed out next."""
        self._room = Semaphore(ahead)
        self._outcomes: SimpleQueue[_Computed[Result] | _Failed] = SimpleQueue()
        self._closed = Event()
        self._stream = DecodingStream()
        self._thread = Thread(target=self._run, name="read-ahead", daemon=True)  # a decoder that hangs must not outlive the main thread

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._next == len(self._items) or self._closed.is_set():
            self.close()
            raise StopIteration
        if not self._thread.ident:
            self._thread.start()
        outcome = self._outcomes.get()
        if isinstance(outcome, _Failed):
            self.close()
            raise outcome.error
        self._next += 1
        self._room.release()
        self._stream.hand_over(outcome.result)
        return outcome.result

    def close(self) -> None:
        """Ends the thread, at the latest when the sample or batch in work is decoded; one that hangs is left to the end of the process."""
        self._closed.set()
        self._room.release()
        if self._thread.ident:
            self._thread.join(self._end_limit_s)
        self._outcomes = SimpleQueue()

    def _run(self) -> None:
        watch = _UntilClosed(self._closed)
        try:
            with self._stream.entered():
                for item in self._items:
                    self._room.acquire()
                    if self._closed.is_set():
                        return
                    self._outcomes.put(self._computed(item, watch))  # nothing here may hold the result: it would live a step longer
        except BaseException as error:  # the caller's, which waits for it
            self._outcomes.put(_Failed(error))

    def _computed(self, item: Item, watch: Watch) -> "_Computed[Result]":
        result = self._compute(item, watch)
        self._stream.finish()
        return _Computed(result)


@dataclass(frozen=True)
class _Computed(Generic[Result]):
    result: Result


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class _ClosedError(Exception):
    """Nobody waits for the result any more."""


class _UntilClosed(Watch):
    """Ends the computation at its next sample."""

    def __init__(self, closed: Event) -> None:
        super().__init__()
        self._closed = closed

    @contextmanager
    def working_on(self, sample: SampleInWork) -> Iterator[None]:
        if self._closed.is_set():
            raise _ClosedError
        yield
