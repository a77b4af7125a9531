"""Worker processes that compute a function of each item ahead of time, in order; or none, and the caller's process computes it."""

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from megatron_mplug2.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Workers(Generic[Item, Result]):
    """Iterates over `compute(item)`. With `count` 0 each is computed when it is asked for; else by forked processes of one thread each,
    which prepare up to `ahead` items, ignore the signals that end a run in good order, and die with their parent.

    The results don't depend on `count`. Raises UserError where `compute` does. Close it, or read it to its end.
    """

    def __init__(self, compute: Callable[[Item], Result], items: Sequence[Item], *, count: int, ahead: int) -> None:
        self._results: Iterator[Result | UserError] | None
        caught = partial(_caught, compute)
        if count == 0 or not items:
            self._results = map(caught, items)
            return
        loader: DataLoader[Any] = DataLoader(
            _Computed(caught, items),
            batch_size=None,
            num_workers=min(count, len(items)),
            prefetch_factor=max(-(-ahead // count), 1),
            collate_fn=_as_it_is,
            worker_init_fn=partial(_start_worker, os.getpid()),
            multiprocessing_context="fork",
            generator=torch.Generator(),  # else it would draw from the process's own generator
        )
        self._results = iter(loader)
        atexit.register(self.close)  # before multiprocessing's own, which would wait for workers that ignore SIGTERM

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._results is None:
            raise StopIteration
        try:
            result = next(self._results)
        except StopIteration:
            self.close()
            raise
        if isinstance(result, UserError):
            self.close()
            raise result
        return result

    def close(self) -> None:
        """Ends the processes."""
        self._results = None  # the DataLoader's iterator ends its workers when it goes
        atexit.unregister(self.close)


class _Computed(Dataset[Any]):
    def __init__(self, compute: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self._compute = compute
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Any:
        return self._compute(self._items[place])


def _caught(compute: Callable[[Item], Result], item: Item) -> Result | UserError:
    """DataLoader would turn the one line of a UserError into a traceback."""
    try:
        return compute(item)
    except UserError as error:
        return error


def _as_it_is(result: Any) -> Any:
    return result


def _start_worker(parent: int, worker: int) -> None:
    # A Ctrl-C or SLURM's SIGTERM reaches the whole process group; the run then still needs its workers to end its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
