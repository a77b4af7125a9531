"""A command in a process of its own, to which signals that are meant for it go on: for what runs many, one after the other."""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO

from launchers.stop_signal import STOP_SIGNAL


@dataclass(frozen=True, kw_only=True)
class ChildEnd:
    code: int
    """As shells write it: 128 + the signal where one ended it."""
    asked_to_stop: bool
    """Whether this process was, meanwhile."""


def run_child(command: Sequence[str], environ: Mapping[str, str], lock: int, output: IO[bytes] | None = None) -> ChildEnd:
    """Runs a command to its end. SIGTERM and the cluster's signal are passed on to it, as a terminal passes a Ctrl-C.

    `lock`: a file descriptor that lives as long as the process. `output`: where it prints; None is where this process does.
    """
    with _signals_kept() as kept:
        kept.process = subprocess.Popen(command, env=dict(environ), pass_fds=(lock,), stdout=output, stderr=output)
        kept.pass_on()  # one that came meanwhile
        code = kept.process.wait()
    return ChildEnd(code=128 - code if code < 0 else code, asked_to_stop=kept.signum is not None)


class _Kept:
    """The signal that came while a process runs. It goes on to the process, if it is none that a terminal sends there itself."""

    signum: int | None = None
    process: "subprocess.Popen[bytes] | None" = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self.pass_on()

    def pass_on(self) -> None:
        if self.process is not None and self.signum not in (None, signal.SIGINT):
            self.process.send_signal(self.signum)


@contextmanager
def _signals_kept() -> Iterator[_Kept]:
    """By a handler, since what is ignored stays ignored in the process that is started."""
    kept = _Kept()
    before = {signum: signal.signal(signum, kept) for signum in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)}
    try:
        yield kept
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
