"""Runs pieces of work in forked processes, some at a time, and outlives what kills or hangs a process: a decoder's bug, a hostile file."""

import ctypes
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from data_tools.sample import Fault, Reason
from megatron_mplug2.errors import UserError

Piece = TypeVar("Piece")

_TRIES = 2
"""Times that a sample may end its process before it is left out: once may be the machine's doing."""
_CONTEXT = get_context("fork")
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_NOTHING = -1

Faults = Mapping[int, Fault]
"""Samples of a piece, by their number in it, that end the process that looks at them."""


class Slot:
    """Memory that a process shares with its parent, where it writes which sample it has in work and since when."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.leave()

    def enter(self, number: int) -> None:
        struct.pack_into("<qd", self._memory, 0, number, time.monotonic())

    def leave(self) -> None:
        self.enter(_NOTHING)

    def read(self) -> tuple[int | None, float]:
        """The sample's number, None between samples, and for how many seconds it has been in work."""
        number, since = struct.unpack_from("<qd", self._memory)
        return (None if number == _NOTHING else number), time.monotonic() - since


Make = Callable[[Piece, Faults, Slot], None]
"""Does a piece: tells the slot each sample before it looks into it, and leaves out those of the faults."""


@dataclass
class _Running(Generic[Piece]):
    piece: Piece
    process: BaseProcess
    told: connection.Connection
    slot: Slot
    overdue: bool = False


@dataclass
class _History:
    """How a piece's samples ended processes."""

    deaths: dict[int, int] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)


def run_pieces(pieces: Iterator[Piece], make: Make[Piece], *, workers: int, sample_timeout_s: float) -> Iterator[Piece]:
    """Each piece once it is done, in the order that they end. Raises UserError where `make` does, or dies outside a sample."""
    running: dict[int, _Running[Piece]] = {}
    histories: dict[int, _History] = {}
    try:
        while True:
            while len(running) < workers and (piece := next(pieces, None)) is not None:
                started = _start(piece, make, {})
                running[started.process.sentinel] = started
            if not running:
                return
            for sentinel in connection.wait(list(running), timeout=min(sample_timeout_s / 4, 1.0)):
                assert isinstance(sentinel, int)
                ended = running.pop(sentinel)
                history = histories.pop(id(ended.piece), None) or _History()
                if _done(ended, history):
                    yield ended.piece
                else:
                    histories[id(ended.piece)] = history
                    again = _start(ended.piece, make, history.faults)
                    running[again.process.sentinel] = again
            for each in running.values():
                number, seconds = each.slot.read()
                if number is not None and seconds > sample_timeout_s:
                    each.overdue = True
                    each.process.kill()
    finally:
        for each in running.values():
            each.process.kill()
            each.process.join()


def _start(piece: Piece, make: Make[Piece], faults: Faults) -> _Running[Piece]:
    slot = Slot()
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(piece, make, faults, slot, theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return _Running(piece=piece, process=process, told=mine, slot=slot)


def _work(piece: Piece, make: Make[Piece], faults: Faults, slot: Slot, told: connection.Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
    try:
        make(piece, faults, slot)
    except UserError as error:
        told.send(str(error))
    os._exit(0)


def _done(ended: _Running[Piece], history: _History) -> bool:
    """Whether the piece is done; else the history says what to leave out in the next try."""
    ended.process.join()
    if ended.told.poll():
        with suppress(EOFError):
            raise UserError(ended.told.recv())
    if ended.process.exitcode == 0:
        return True
    number, _ = ended.slot.read()
    if number is None:
        raise UserError(f"a process of this stage ended by {_cause(ended.process.exitcode)} outside any sample: run the same command again")
    history.deaths[number] = history.deaths.get(number, 0) + 1
    if history.deaths[number] >= _TRIES:
        reason = Reason.HUNG if ended.overdue else Reason.CRASHED
        history.faults[number] = Fault(reason=reason, detail="" if ended.overdue else _cause(ended.process.exitcode))
    return False


def _cause(exitcode: int | None) -> str:
    return f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit status {exitcode}"
