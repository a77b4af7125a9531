"""One forked process that computes what it is told to, and what its parent knows of it."""

import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch

from megatron_mplug2.data.parcel import Packer, Parcel, Unpacker
from megatron_mplug2.data.watch import Note, SampleInWork, Slot, Watch
from megatron_mplug2.errors import UserError

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_DEATH_LIMIT_S = 2.0
"""How long a killed process is waited for. One that reads from a storage that does not answer dies only when that does."""
_POLL_S = 0.005

Compute = Callable[[int, Watch], Any]
"""A function of an item's place."""


class LostWorker(Exception):  # noqa: N818 (what happened, not a defect)
    """The process has ended."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """In place of a result."""

    error: Exception


@dataclass(frozen=True, kw_only=True)
class _Errand:
    place: int
    given_up: Mapping[SampleInWork, str]
    emptied: tuple[int, ...]
    """Crates to be filled again."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    place: int
    parcel: Parcel
    """Its crate's descriptor follows where it was not sent before."""


class WorkerProcess:
    """Computes errands in order. It has one thread, ignores the signals that end a run in good order, and dies with its parent."""

    def __init__(self, compute: Compute, siblings: Iterable["WorkerProcess"]) -> None:
        """`siblings`: the parent's other workers, whose connections this one must not hold open."""
        self.assigned: deque[int] = deque()
        """Places that it has yet to answer, the one in work first."""
        self._slot = Slot()
        self._unpacker = Unpacker()
        self.connection, far_end = Pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for worker in (self, *siblings):
                    worker._let_go()
                _start(parent)
                _serve(compute, far_end, self._slot)
            finally:
                os._exit(0)  # nothing of the parent's may be cleaned up here, nor its buffered output written
        far_end.close()

    @property
    def note(self) -> Note:
        """Of the work on `assigned[0]`."""
        return self._slot.read()

    def assign(self, place: int, given_up: Mapping[SampleInWork, str]) -> None:
        """`given_up`: samples that it shall not try, and why."""
        if not self.assigned:
            self._slot.write(None)  # the clock starts
        self.assigned.append(place)
        with suppress(OSError):  # it has ended, which `receive` tells
            self.connection.send(_Errand(place=place, given_up=given_up, emptied=self._unpacker.emptied()))

    def receive(self) -> tuple[int, Any]:
        """A place and its result or Failed; waits for it. Raises LostWorker."""
        try:
            answer: _Answer = self.connection.recv()
            if not self._unpacker.knows(answer.parcel):
                self._unpacker.add(answer.parcel, recv_handle(self.connection))
        except (EOFError, OSError, RuntimeError):
            raise LostWorker from None
        self.assigned.remove(answer.place)
        return answer.place, self._unpacker.unpack(answer.parcel)

    def kill(self) -> None:
        """Ends it at once; `exit_code` waits for that."""
        self._let_go()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def exit_code(self) -> int | None:
        """Of a worker that was killed or lost; -N for signal N, None if it still lives after a while or somebody else took the code."""
        deadline = time.monotonic() + _DEATH_LIMIT_S
        while time.monotonic() < deadline:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_POLL_S)
        return None

    def _let_go(self) -> None:
        self.connection.close()
        self._unpacker.close()


def _start(parent: int) -> None:
    # A Ctrl-C or SLURM's SIGTERM reaches the whole process group; the run then still needs its workers to end its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
    gc.freeze()  # what the parent left unreferenced, such as a process group, must not be destroyed here
    torch.set_num_threads(1)


def _serve(compute: Compute, connection: Connection, slot: Slot) -> None:
    packer, sent = Packer(), set[int]()
    with suppress(EOFError, OSError):  # the parent has ended or let go of this worker
        while True:
            errand: _Errand = connection.recv()
            packer.fill_again(errand.emptied)
            parcel = _packed(packer, _computed(compute, errand, slot))
            slot.write(None)  # the next errand's clock starts
            connection.send(_Answer(place=errand.place, parcel=parcel))
            if parcel.crate not in sent:
                send_handle(connection, packer.handle(parcel), os.getppid())
                sent.add(parcel.crate)


def _computed(compute: Compute, errand: _Errand, slot: Slot) -> Any:
    try:
        return compute(errand.place, Watch(slot, errand.given_up))
    except UserError as error:
        return Failed(error=error)
    except Exception as error:
        return _failed(error)


def _packed(packer: Packer, result: Any) -> Parcel:
    try:
        return packer.pack(result)
    except Exception as error:  # what does not pickle, or no memory
        return packer.pack(_failed(error))


def _failed(error: Exception) -> Failed:
    """A defect with its traceback, which does not pickle."""
    return Failed(error=RuntimeError(f"a data worker failed:\n{''.join(traceback.format_exception(error))}"))
