"""Runs pieces of work in forked processes, some at a time, and outlives what kills or hangs a process: a decoder's bug, a hostile file."""

import ctypes
import gc
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import torch

from data_tools.sample import Fault, Reason
from megatron_mplug2.errors import UserError

Piece = TypeVar("Piece")

_TRIES = 2
"""Times that a sample may end its process before it is left out: once may be the machine's doing."""
_CONTEXT = get_context("fork")
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_NOTHING = -1
_ENDING = (signal.SIGINT, signal.SIGTERM)

Faults = Mapping[int, Fault]
"""Samples of a piece, by their number in it, that end the process that looks at them."""


class Slot:
    """Memory that a process shares with its parent, where it writes which sample it has in work, since when, and how many it had."""

    def __init__(self) -> None:
        # Written a whole number at a time: `struct.pack_into` shows zeros in between.
        memory = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self._since, self._counts = memory[:8].cast("d"), memory[8:24].cast("q")
        self._write(_NOTHING, 0)

    def enter(self, number: int) -> None:
        self._write(number, self.entered + 1)

    def leave(self) -> None:
        self._write(_NOTHING, self.entered)

    def read(self) -> tuple[int | None, float]:
        """The sample's number, None between samples, and for how many seconds it has been in work."""
        since, number = self._since[0], self._counts[0]
        if number == _NOTHING or since == 0 or self._since[0] != since:
            return None, 0.0
        return number, time.monotonic() - since

    @property
    def entered(self) -> int:
        """Samples so far."""
        return self._counts[1]

    def _write(self, number: int, entered: int) -> None:
        self._since[0] = 0.0  # not whole until it has a time
        self._counts[0], self._counts[1] = number, entered
        self._since[0] = time.monotonic()


Make = Callable[[Piece, Faults, Slot], None]
"""Does a piece: tells the slot each sample before it looks into it, and leaves out those of the faults."""


@dataclass
class _History:
    """How a piece's samples ended processes."""

    deaths: dict[int, int] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)


@dataclass
class _Running(Generic[Piece]):
    piece: Piece
    process: BaseProcess
    told: connection.Connection
    slot: Slot
    history: _History
    overdue: bool = False


def run_pieces(
    pieces: Iterator[Piece],
    make: Make[Piece],
    *,
    workers: int,
    sample_timeout_s: float,
    looked: Callable[[int], None] = lambda samples: None,
) -> Iterator[Piece]:
    """Each piece once it is done, in the order that they end; tells `looked` now and then how many samples were entered so far.

    Raises UserError where `make` does, or dies outside a sample.
    """
    running: dict[int, _Running[Piece]] = {}
    samples = 0
    try:
        while True:
            while len(running) < workers and (piece := next(pieces, None)) is not None:
                started = _start(piece, make, _History())
                running[started.process.sentinel] = started
            if not running:
                return
            for sentinel in connection.wait(list(running), timeout=min(sample_timeout_s / 4, 1.0)):
                assert isinstance(sentinel, int)
                ended = running.pop(sentinel)
                if _done(ended):
                    samples += ended.slot.entered
                    yield ended.piece
                else:
                    again = _start(ended.piece, make, ended.history)
                    running[again.process.sentinel] = again
            looked(samples + sum(each.slot.entered for each in running.values()))
            _end_overdue(running.values(), sample_timeout_s)
    finally:
        for each in running.values():
            each.process.kill()
            each.process.join()


def _end_overdue(running: Iterable[_Running[Piece]], sample_timeout_s: float) -> None:
    for each in running:
        number, seconds = each.slot.read()
        if number is not None and seconds > sample_timeout_s:
            each.overdue = True
            each.process.kill()


def _start(piece: Piece, make: Make[Piece], history: _History) -> _Running[Piece]:
    slot = Slot()
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(piece, make, history.faults, slot, theirs, os.getpid()), daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # until the child has handlers of its own, not its parent's
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return _Running(piece=piece, process=process, told=mine, slot=slot, history=history)


def _work(piece: Piece, make: Make[Piece], faults: Faults, slot: Slot, told: connection.Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
    gc.freeze()  # what the parent left unreferenced, such as a process group, must not be destroyed here, without its threads
    torch.set_num_threads(1)  # of OpenMP's, which this process would wait for where its parent has used more; and each core has a process
    try:
        make(piece, faults, slot)
    except UserError as error:
        told.send(error)
    except Exception as error:
        if slot.read()[0] is None:
            raise  # no sample's fault, a defect: with its traceback
        told.send(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def _done(ended: _Running[Piece]) -> bool:
    """Whether the piece is done; else its history says what to leave out in the next try."""
    ended.process.join()
    cause = _cause(ended.process.exitcode)
    with ended.told, suppress(EOFError):
        if ended.told.poll():
            word = ended.told.recv()
            if isinstance(word, UserError):
                raise word
            cause = word
    if ended.process.exitcode == 0:
        return True
    number, _ = ended.slot.read()
    if number is None:
        raise UserError(f"a process of this stage ended by {cause} outside any sample: run the same command again")
    deaths = ended.history.deaths
    deaths[number] = deaths.get(number, 0) + 1
    if deaths[number] >= _TRIES:
        ended.history.faults[number] = Fault(reason=Reason.HUNG) if ended.overdue else Fault(reason=Reason.CRASHED, detail=cause)
    return False


def _cause(exitcode: int | None) -> str:
    return f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit status {exitcode}"
