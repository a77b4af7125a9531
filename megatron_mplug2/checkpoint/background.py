"""Saves beside the training steps: a step waits for a copy in host memory, and a thread writes and commits the copy.

A thread, not a process: writing and checksums leave the interpreter to the steps, which lose about as much to a process that writes
(`benchmarks/checkpoint.py` measures both). It dies with its rank, and needs no second import of everything, no shared memory, no fork
beside CUDA. It is the same code that saves without it, in a process group of its own.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.contents import pieces_to_save
from megatron_mplug2.checkpoint.optimizer_state import Optimizer
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.device import on_gpu
from megatron_mplug2.parallel.topology import Topology


class BackgroundSaver:
    """At most one save in flight. Keeps host memory for all that this rank saves, pinned where there is a GPU."""

    def __init__(self) -> None:
        self._host: list[torch.Tensor] = []
        self._write: _Write | None = None

    def save(
        self,
        folder: Path,
        state: RunState,
        weights: list[Weight],
        optimizer: Optimizer | None,
        topology: Topology,
        retention: Retention,
        beside: Sequence[Piece] = (),
    ) -> None:
        """As `store.save`, begun: all of it may change when it returns. Waits for the save before; raises what that raised."""
        self.wait()
        pieces = self._copies([*pieces_to_save(weights, optimizer, topology), *beside])
        self._write = _Write(folder, state, pieces, topology, retention)
        store.TURN.acquire()  # here, where saves have the same order on all ranks, not in the thread
        self._write.start()

    @property
    def writing(self) -> int | None:
        """Step of the save that is in flight; None where there is none."""
        return self._write.step if self._write is not None and self._write.is_alive() else None

    def finished(self) -> Path | None:
        """The checkpoint of a save that has succeeded since. Never waits or raises: ranks hear of a failure together, at the next save."""
        return self.wait() if self._write is not None and self._write.succeeded() else None

    def wait(self) -> Path | None:
        """Until nothing is in flight. The checkpoint that was; None where there was none. Raises what the save raised."""
        write, self._write = self._write, None
        return write.result() if write is not None else None

    @torch.no_grad()
    def _copies(self, pieces: list[Piece]) -> list[Piece]:
        if [(host.shape, host.dtype) for host in self._host] != [(piece.tensor.shape, piece.tensor.dtype) for piece in pieces]:
            self._host = [torch.empty(piece.tensor.shape, dtype=piece.tensor.dtype, pin_memory=on_gpu()) for piece in pieces]
        for piece, host in zip(pieces, self._host, strict=True):
            host.copy_(piece.tensor, non_blocking=True)
        if on_gpu():
            torch.cuda.synchronize()
        return [
            Piece(key=piece.key, full_size=piece.full_size, offsets=piece.offsets, tensor=host)
            for piece, host in zip(pieces, self._host, strict=True)
        ]


class _Write(threading.Thread):
    """Daemonic: a rank that fails elsewhere ends without it."""

    def __init__(self, folder: Path, state: RunState, pieces: list[Piece], topology: Topology, retention: Retention) -> None:
        super().__init__(name=f"checkpoint after step {state.step}", daemon=True)
        self.step = state.step
        self._job = folder, state, pieces, topology, retention
        self._device = torch.cuda.current_device() if on_gpu() else None
        self._checkpoint: Path | None = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)  # a new thread's is the first GPU, where torch's writer would make a context
            self._checkpoint = store.write(*self._job)
        except BaseException as error:
            self._failure = error
        finally:
            store.TURN.release()

    def succeeded(self) -> bool:
        return not self.is_alive() and self._failure is None

    def result(self) -> Path:
        self.join()
        if self._failure is not None:
            raise self._failure
        assert self._checkpoint is not None
        return self._checkpoint
