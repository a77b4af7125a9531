"""What a checkpoint costs: how long the training loop stands still for a save in the step and for one beside the steps, how much slower
steps are meanwhile, and seconds per GB of saving and loading. About 1 GB of weights and Adam's state, on one rank.

    python -m benchmarks.checkpoint

Beside the steps a thread writes. What a process would take from them instead is measured with a forked one that writes the same: it is
no part of the project, since forks and CUDA don't go together. On a machine with other work the steps' figures say little: see the load.
"""

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.record import write
from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.background import BackgroundSaver
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.commit_file import checksum
from megatron_mplug2.checkpoint.contents import pieces_to_save
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.load import load_config
from megatron_mplug2.training.engine import Engine, make_engine

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "demo.yaml"
OVERRIDES = [
    "layout.data=1",
    "model.text.hidden=768",
    "model.text.heads=12",
    "model.text.ffn=3072",
    "model.vision.width=512",
    "model.vision.heads=8",
    "model.vision.ffn=2048",
]
ROUNDS = 5
SIDE, OPERATIONS = 64, 2000
"""A stand-in for a step: so many additions of matrices of this side, since what a writer can take from a step is the interpreter."""
ALONE_S = 3.0
"""Seconds in which steps are timed with nothing beside them, each round."""


def main() -> None:
    config = load_config(CONFIG, OVERRIDES)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        figures = _Bench(make_engine(config), Path(folder) / "checkpoints").run()
        dist.destroy_process_group()
    case = {"config": "configs/pretrain/demo.yaml", "set": OVERRIDES, "load_average": [round(load, 1) for load in os.getloadavg()]}
    path = write("checkpoint", "python -m benchmarks.checkpoint", case, figures)
    for name, value in figures.items():
        print(f"{name:40} {value}")
    print(f"written to {path}")


class _Bench:
    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._job = engine.weights, engine.optimizer, engine.topology, Retention(last=1)
        self._pieces = pieces_to_save(*self._job[:3])
        self._gb = sum(piece.tensor.nbytes for piece in self._pieces) / 1e9
        self._matrix = torch.randn(SIDE, SIDE)
        self._step = 0

    def run(self) -> dict[str, float]:
        saver = BackgroundSaver()
        within, loads, beside, written = [], [], [], []
        alone, with_thread, with_process = [], [], []
        for _ in range(ROUNDS):
            alone.append(self._steps_while(_for(ALONE_S)))
            within.append(self._timed(lambda: store.save(self._folder, self._state(), *self._job)))
            loads.append(self._timed(self._load))
            beside.append(self._timed(lambda: saver.save(self._folder, self._state(), *self._job)))
            started = time.monotonic()
            with_thread.append(self._steps_while(lambda: saver.finished() is None))
            written.append(time.monotonic() - started)
            with_process.append(self._steps_while(self._forked_writer().is_alive))
        first, *beside = beside  # at the first one host memory is made
        middle = statistics.median
        return {
            "gigabytes": round(self._gb, 3),
            "stall_within_step_s": round(middle(within), 3),
            "stall_beside_steps_s": round(middle(beside), 3),
            "stall_beside_steps_first_s": round(first, 3),
            "stall_ratio": round(middle(within) / middle(beside), 1),
            "written_beside_steps_after_s": round(middle(written), 3),
            "save_s_per_gb": round(middle(within) / self._gb, 3),
            "load_s_per_gb": round(middle(loads) / self._gb, 3),
            **_steps("step_alone", alone),
            **_steps("step_beside_thread", with_thread),
            **_steps("step_beside_process", with_process),
        }

    def _state(self) -> RunState:
        self._step += 1
        return RunState(step=self._step, config="name: benchmark\n", data={})

    @staticmethod
    def _timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    def _load(self) -> None:
        found = store.find(self._folder)
        assert isinstance(found, store.Found)
        store.load(found, *self._job[:3])

    def _steps_while(self, going_on: Callable[[], bool]) -> list[float]:
        """Seconds of each step while something goes on."""
        steps: list[float] = []
        while going_on():
            started = time.perf_counter()
            for _ in range(OPERATIONS):
                torch.add(self._matrix, self._matrix)
            steps.append(time.perf_counter() - started)
        return steps

    def _forked_writer(self) -> multiprocessing.process.BaseProcess:
        copies = [Piece(key=p.key, full_size=p.full_size, offsets=p.offsets, tensor=p.tensor.clone()) for p in self._pieces]
        process = multiprocessing.get_context("fork").Process(target=_write_files, args=(copies, self._folder.with_name("by_process")))
        process.start()
        return process


def _for(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() < until


def _steps(name: str, rounds: list[list[float]]) -> dict[str, float]:
    """Median over the rounds of their mean and of their longest step."""
    mean = statistics.median(statistics.fmean(steps) for steps in rounds)
    longest = statistics.median(max(steps) for steps in rounds)
    return {f"{name}_mean_ms": round(1000 * mean, 3), f"{name}_longest_ms": round(1000 * longest, 3)}


def _write_files(pieces: list[Piece], folder: Path) -> None:
    """What the thread writes and reads back, without its collectives, which a forked process can't have."""
    folder.mkdir(exist_ok=True)
    with (folder / "shard").open("wb") as file:
        for piece in pieces:
            torch.save(piece.tensor, file)
        file.flush()
    checksum(folder / "shard")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
