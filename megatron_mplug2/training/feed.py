"""A run's steps with their microbatches on the rank's device, where the next step's come while this one runs."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from megatron_mplug2.data.batch import Batch, moved
from megatron_mplug2.data.decoding_stream import DecodingStream
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.parallel.device import device, on_gpu

Given = tuple[PlannedStep, list[Batch]]
Move = Callable[[list[Batch]], list[Batch]]


class Feed:
    """Iterates over steps. Close it, or read it to its end."""

    def __init__(self, steps: Iterable[Given], move: Move | None) -> None:
        """`move`: what a thread does, on a stream of its own, with the microbatches of one step at a time; None: nothing is to be done."""
        self._source = iter(steps)
        self._mover = _Mover(move) if move else None
        self._coming: _Coming | BaseException | None = None

    def __iter__(self) -> Iterator[Given]:
        return self

    def __next__(self) -> Given:
        coming = self._coming or self._asked_for()
        self._coming = None
        if isinstance(coming, BaseException):
            self.close()
            raise coming
        return coming.planned, coming.batches()

    def fetch_next(self) -> None:
        """Asks for the next step, and begins to move it: to be called when the work of this one is queued. Where nothing is moved there is
        nothing to win. What the step raises, it raises when its turn comes.

        In the thread that iterates, at the same place of every step: a loader may meet other ranks' for each step.
        """
        if self._mover and self._coming is None:
            self._coming = self._asked_for()

    def close(self) -> None:
        """Closes the steps as well, where they are a generator's."""
        if self._mover:
            self._mover.close()
        if isinstance(self._source, Generator):
            self._source.close()

    def _asked_for(self) -> "_Coming | BaseException":
        try:
            planned, batches = next(self._source)
        except (StopIteration, Exception) as error:
            return error
        return _Coming(planned=planned, batches=self._mover.begin(batches) if self._mover else lambda: batches)


def on_device(steps: Iterable[Given]) -> Feed:
    """On a GPU a thread moves the microbatches: they lie in memory that other processes have written, of which the host has seen no page
    yet, and a copy from there to the GPU would keep it from launching kernels."""
    return Feed(steps, _to_device if on_gpu() else None)


@dataclass(frozen=True, kw_only=True)
class _Coming:
    planned: PlannedStep
    batches: Callable[[], list[Batch]]
    """Waits for them."""


class _Mover:
    def __init__(self, move: Move) -> None:
        self._move, self._stream = move, DecodingStream()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="to-device")

    def begin(self, batches: list[Batch]) -> Callable[[], list[Batch]]:
        """Returns what waits for the end, in the thread that uses them."""
        coming: Future[list[Batch]] = self._pool.submit(self._through_stream, batches)

        def arrived() -> list[Batch]:
            there = coming.result()
            for batch in there:
                self._stream.hand_over(batch)
            return there

        return arrived

    def close(self) -> None:
        self._pool.shutdown()

    def _through_stream(self, batches: list[Batch]) -> list[Batch]:
        with self._stream.entered():
            there = self._move(batches)
            self._stream.finish()
            return there


def _to_device(batches: list[Batch]) -> list[Batch]:
    return [moved(batch, device()) for batch in batches]
