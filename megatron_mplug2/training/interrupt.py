"""Ctrl-C, SIGTERM and the cluster's signal as a wish, which all ranks follow at the same step."""

import signal
from types import FrameType, TracebackType
from typing import Self

from launchers.stop_signal import STOP_SIGNAL

_SIGNALS = (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)


class Interrupt:
    """A context in which these signals are noted instead of ending the process."""

    def __init__(self) -> None:
        self._asked = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True

    def asked(self) -> bool:
        """Whether this rank was asked to stop; the guard tells the others (`training.guard`)."""
        return self._asked

    def __enter__(self) -> Self:
        self._before = [signal.signal(signum, self._note) for signum in _SIGNALS]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP_SIGNAL})  # one that came earlier comes now
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(signum, handler)
        signal.signal(STOP_SIGNAL, signal.SIG_IGN)  # a late one must not end a rank that is done
