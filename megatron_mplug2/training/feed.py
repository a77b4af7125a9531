"""A run's steps with their microbatches on the rank's device, where the next step's come while this one runs."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from megatron_mplug2.data.batch import Batch, moved
from megatron_mplug2.data.decoding_stream import DecodingStream
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.parallel.device import device, on_gpu

Given = tuple[PlannedStep, list[Batch]]


def on_device(steps: Iterable[Given]) -> Iterator[Given]:
    """On a GPU a thread moves the next step's microbatches while this step runs: they lie in memory that other processes have written, of
    which the host has seen no page yet, and a copy from there to the GPU would keep it from launching kernels.

    So a step is asked for when the one before it is handed out. What it raises, it raises when its turn comes.
    """
    if on_gpu():
        yield from one_ahead(steps, _to_device)
    else:
        yield from steps


def one_ahead(steps: Iterable[Given], move: Callable[[list[Batch]], list[Batch]]) -> Iterator[Given]:
    """`move` runs in a thread, on a stream of its own, for one step at a time."""
    source, stream = iter(steps), DecodingStream()

    def through_stream(batches: list[Batch]) -> list[Batch]:
        with stream.entered():
            there = move(batches)
            stream.finish()
            return there

    with ThreadPoolExecutor(1, thread_name_prefix="to-device") as pool:
        coming = _next(source, pool, through_stream)
        while coming is not None:
            if isinstance(coming, BaseException):
                raise coming
            now, coming = coming, _next(source, pool, through_stream)
            batches = now.batches.result()
            for batch in batches:
                stream.hand_over(batch)
            yield now.planned, batches


@dataclass(frozen=True, kw_only=True)
class _Coming:
    planned: PlannedStep
    batches: Future[list[Batch]]


def _next(source: Iterator[Given], pool: ThreadPoolExecutor, move: Callable[[list[Batch]], list[Batch]]) -> _Coming | BaseException | None:
    """None at the end."""
    try:
        planned, batches = next(source)
    except StopIteration:
        return None
    except Exception as error:
        return error
    return _Coming(planned=planned, batches=pool.submit(move, batches))


def _to_device(batches: list[Batch]) -> list[Batch]:
    return [moved(batch, device()) for batch in batches]
