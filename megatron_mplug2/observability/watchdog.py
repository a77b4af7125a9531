"""A thread a rank that ends the run when the rank makes no progress: stacks to files, one line that names the culprit, no rank left.

A rank that waits in a collective makes no progress either, so all ranks of a stuck run find it out, each by itself, and know the
culprit from what all say of themselves. torch's own limits on collectives come later and name nobody (`parallel.topology`).
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.beats import Beat, process_of, read_beats, write_beat
from megatron_mplug2.observability.culprit import Culprit, find_culprit
from megatron_mplug2.observability.sections import SectionClock

BEATS_IN_LIMIT = 10
LONGEST_PERIOD_S = 60.0
STACKS = "stacks"
"""Folder in the run folder; a file a rank."""


class Watchdog:
    """A context on every rank around all of its work. Does nothing where `limit_s` is 0."""

    def __init__(self, run_dir: Path, rank: int, world_size: int, clock: SectionClock, limit_s: float) -> None:
        self._run_dir, self._rank, self._world_size, self._clock = run_dir, rank, world_size, clock
        self._limit_s = limit_s
        self._period_s = min(limit_s / BEATS_IN_LIMIT, LONGEST_PERIOD_S)
        self._ended: Callable[[str], None] = lambda line: None
        self._count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def tell(self, ended: Callable[[str], None]) -> None:
        """`ended` is called with the line, on the rank that says it, before its process ends."""
        self._ended = ended

    def _watch(self) -> None:
        while not self._over.wait(self._period_s):
            self._beat()
            if self._stands_still():
                self._judge()

    def _beat(self) -> None:
        self._count += 1
        with suppress(OSError):  # a full disk is told by those who write more than this
            write_beat(self._run_dir, self._rank, self._count, self._clock.position)

    def _stands_still(self) -> bool:
        return time.monotonic() - self._clock.position.since > self._limit_s

    def _judge(self) -> None:
        """Ends the process, unless the rank goes on meanwhile: then it was slow, not stuck."""
        self._write_stacks()
        before = self._beats_after(2)  # all have seen it by then
        after = self._beats_after(2)
        if not self._stands_still() or self._over.is_set():
            return
        culprit = find_culprit(before, after, self._world_size)
        if self._rank == min(rank for rank in range(self._world_size) if rank != culprit.rank or not culprit.silent):
            self._say(culprit)
        if culprit.silent and culprit.rank in after:
            _kill(after[culprit.rank])
        time.sleep(self._period_s if self._rank else 0.0)  # who ends first ends the others: the one who speaks
        os._exit(ExitCode.HUNG)

    def _beats_after(self, periods: int) -> dict[int, Beat]:
        for _ in range(periods):
            self._over.wait(self._period_s)
            self._beat()
        return read_beats(self._run_dir, self._world_size)

    def _write_stacks(self) -> None:
        folder = self._run_dir / STACKS
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            with _stacks_path(self._run_dir, self._rank).open("w") as file:
                faulthandler.dump_traceback(file)

    def _say(self, culprit: Culprit) -> None:
        stacks = _stacks_path(self._run_dir, culprit.rank)
        where = f"is silent, last seen in {culprit.doing}" if culprit.silent else f"is stuck in {culprit.doing}"
        line = f"rank {culprit.rank} of {self._world_size} {where}: no progress for {self._limit_s:g} s (training.hang_timeout_s)"
        with suppress(OSError):
            sys.stderr.write(stacks.read_text())
        line += f"; stacks of all ranks in {stacks.parent}; the same command goes on from the last checkpoint"
        sys.stderr.write(f"error: {line}\n")
        sys.stderr.flush()
        with suppress(Exception):  # the process ends in any case
            self._ended(line)

    def __enter__(self) -> Self:
        if self._limit_s:
            self._beat()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()


def _stacks_path(run_dir: Path, rank: int) -> Path:
    return run_dir / STACKS / f"rank-{rank:05d}.txt"


def _kill(beat: Beat) -> None:
    """A silent rank's process on this node, which would hold the job: it cannot end itself."""
    process = process_of(beat)
    if process is not None:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
