"""The signal by which a cluster asks a run to save and stop: SLURM's `--signal=USR2@120`, some time before a limit or a preemption."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from megatron_mplug2.errors import CutShortError

T = TypeVar("T")

STOP_SIGNAL = signal.SIGUSR2


def hold_back() -> None:
    """Keeps the signal pending until `training.interrupt` or `cut_short_at_stop` takes it: it would end a process that is still importing.

    To be called before threads are started: they inherit it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {STOP_SIGNAL})


class _AskedError(BaseException):
    """Passes by whatever catches the faults of a sample."""


def cut_short_at_stop(work: Callable[[T], None], line: str) -> Callable[[T], None]:
    """The work of a rank that cannot be gone on with: the signal ends it by CutShortError with this line. What is requeued then is what was
    preempted."""

    def work_until_asked(of: T) -> None:
        signal.signal(STOP_SIGNAL, _asked)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP_SIGNAL})  # one that came earlier comes now
            work(of)
        except _AskedError:
            raise CutShortError(line) from None
        finally:
            signal.signal(STOP_SIGNAL, signal.SIG_IGN)  # a late one must not end a rank that is done

    return work_until_asked


def _asked(signum: int, frame: FrameType | None) -> None:
    raise _AskedError
