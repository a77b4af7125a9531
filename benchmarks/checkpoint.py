"""What a checkpoint costs: how long the training loop stands still for a save in the step and for one beside the steps, how much slower
steps are meanwhile, and seconds per GB of saving and loading. About 1 GB of weights and Adam's state, on one rank.

    python -m benchmarks.checkpoint

Beside the steps a thread writes. That a process would not disturb them less is measured with a forked one that writes the same: it is
no part of the project, since forks and CUDA don't go together.
"""

import multiprocessing
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
STEP_SIZE = 512
"""Side of the matrices that a stand-in for a step multiplies: many short operations, as the interpreter sees a step."""


def main() -> None:
    config = load_config(CONFIG, OVERRIDES)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        figures = _Bench(make_engine(config), Path(folder) / "checkpoints").run()
        dist.destroy_process_group()
    path = write("checkpoint", "python -m benchmarks.checkpoint", {"config": "configs/pretrain/demo.yaml", "set": OVERRIDES}, figures)
    for name, value in figures.items():
        print(f"{name:40} {value}")
    print(f"written to {path}")


class _Bench:
    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._job = engine.weights, engine.optimizer, engine.topology, Retention(last=1)
        self._pieces = pieces_to_save(*self._job[:3])
        self._gb = sum(piece.tensor.nbytes for piece in self._pieces) / 1e9
        self._matrix = torch.randn(STEP_SIZE, STEP_SIZE)
        self._step = 0

    def run(self) -> dict[str, float]:
        saver = BackgroundSaver()
        within, loads, beside, first = [], [], [], 0.0
        alone = self._median_step(lambda: time.monotonic() < until, until := time.monotonic() + 5)
        with_thread, with_process, written = [], [], []
        for number in range(ROUNDS):
            within.append(self._timed(lambda: store.save(self._folder, self._state(), *self._job)))
            loads.append(self._timed(self._load))
            stall = self._timed(lambda: saver.save(self._folder, self._state(), *self._job))
            started = time.monotonic()
            with_thread.append(self._median_step(lambda: saver.finished() is None))
            written.append(time.monotonic() - started)
            with_process.append(self._median_step(self._forked_writer().is_alive))
            if number == 0:
                first = stall  # its host memory is made
            else:
                beside.append(stall)
        saver.wait()
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
            "step_alone_ms": round(1000 * alone, 3),
            "step_beside_thread_ms": round(1000 * middle(with_thread), 3),
            "step_beside_process_ms": round(1000 * middle(with_process), 3),
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

    def _median_step(self, going_on: Callable[[], bool], *_: float) -> float:
        """Seconds of a step while something goes on."""
        steps = []
        while going_on():
            started = time.perf_counter()
            for _ in range(20):
                torch.add(self._matrix @ self._matrix, self._matrix)
            steps.append(time.perf_counter() - started)
        return statistics.median(steps)

    def _forked_writer(self) -> multiprocessing.process.BaseProcess:
        copies = [Piece(key=p.key, full_size=p.full_size, offsets=p.offsets, tensor=p.tensor.clone()) for p in self._pieces]
        process = multiprocessing.get_context("fork").Process(target=_write_files, args=(copies, self._folder.with_name("by_process")))
        process.start()
        return process


def _write_files(pieces: list[Piece], folder: Path) -> None:
    """What the thread writes and reads back, without its collectives, which a forked process can't have."""
    folder.mkdir(exist_ok=True)
    with (folder / "shard").open("wb") as file:
        for piece in pieces:
            torch.save(piece.tensor, file)
        file.flush()
    store.checksum(folder / "shard")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
