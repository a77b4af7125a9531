"""What the order of a stream costs at 1 M, 100 M and 400 M samples, against the permutations that torch's samplers make: start-up time,
memory, and samples that are ordered a second; and how many tars a global batch touches.

    python -m benchmarks.sampler

Each case runs in a process of its own, so that memory is its own. `DistributedSampler` makes `torch.randperm(n).tolist()` on every rank at
each epoch; a case that needs more than 8 GB is left out.
"""

import json
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, DistributedSampler

from benchmarks.record import write
from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.mixture import StepPlan
from megatron_mplug2.data.sampler import BLOCK, WINDOW, Int64s, Permutation, Sampler

SIZES = (1_000_000, 100_000_000, 400_000_000)
MOST_BYTES = 8 << 30
BATCH, BATCHES = 1024, 2_000
SAMPLES_A_TAR = 6_500
"""Pictures of 40 kB in a tar of 256 MB."""
PLANNED_STEPS = 10_000_000
BYTES_A_SAMPLE = {"ours": 0, "randperm": 8, "distributed_sampler": 8 + 8 + 32}
"""Of a tensor; and of a list with an object for each number."""

Batches = Iterator[Int64s]


class _Numbers(Dataset[int]):
    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _ours(size: int) -> Batches:
    sampler = Sampler(seed=0, task=Task.IMAGE_TEXT, size=size)
    return (sampler.at(np.arange(start, start + BATCH)).indices for start in range(0, size, BATCH))


def _randperm(size: int) -> Batches:
    order = torch.randperm(size)
    return (order[start : start + BATCH].numpy() for start in range(0, size, BATCH))


def _distributed_sampler(size: int) -> Batches:
    numbers: Iterator[int] = iter(DistributedSampler(_Numbers(size), num_replicas=1, rank=0))
    return (np.fromiter(islice(numbers, BATCH), np.int64) for _ in range(0, size, BATCH))


CASES: dict[str, Callable[[int], Batches]] = {"ours": _ours, "randperm": _randperm, "distributed_sampler": _distributed_sampler}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))
        return
    figures: dict[str, Any] = {f"{name}_{size // 1_000_000}M": apart(name, size) for size in SIZES for name in CASES}
    figures["step_plan"] = apart("step_plan", PLANNED_STEPS)
    figures["tars_a_batch"] = _tars()
    case = {"batch": BATCH, "batches": BATCHES, "block": BLOCK, "window": WINDOW, "samples_a_tar": SAMPLES_A_TAR, "steps": PLANNED_STEPS}
    path = write("sampler", "python -m benchmarks.sampler", case, figures)
    for name, figure in figures.items():
        print(f"{name:28} {figure}")
    print(f"written to {path}")


def apart(name: str, size: int) -> dict[str, Any] | str:
    """Start-up and speed of a case in a fresh process; or why it is left out."""
    if BYTES_A_SAMPLE.get(name, 0) * size > MOST_BYTES:
        return f"left out: needs {BYTES_A_SAMPLE[name] * size / 1e9:.0f} GB"
    done = subprocess.run([sys.executable, "-m", "benchmarks.sampler", name, str(size)], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _measure(name: str, size: int) -> dict[str, float]:
    if name == "step_plan":
        return _start(lambda: StepPlan((PhaseConfig(steps=size, text=1, image_text=2),), seed=0, global_batch=BATCH))[1]
    batches, figures = _start(lambda: _first_batch(CASES[name](size)))
    begun, used, count = time.perf_counter(), time.process_time(), 0
    for batch in islice(batches, min(BATCHES, size // BATCH - 1)):
        count += len(batch)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    return figures | {"samples_a_second": round(count / seconds), "cpu_ns_a_sample": round(1e9 * cpu / count, 1)}


def _first_batch(batches: Batches) -> Batches:
    next(batches)
    return batches


def _start(make: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What was made, and what it took: seconds and resident memory of a first time, peak of Python's and numpy's memory of a second."""
    before, begun = _resident_bytes(), time.perf_counter()
    made = make()
    figures = {"start_s": round(time.perf_counter() - begun, 4), "resident_mb": round((_resident_bytes() - before) / 1e6, 1)}
    if figures["resident_mb"] < 1000:  # tracing an object for each of 100 M numbers would take gigabytes itself
        tracemalloc.start()
        make()
        figures["traced_peak_mb"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 3)
        tracemalloc.stop()
    return made, figures


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _tars() -> dict[str, float]:
    """Distinct tars of a global batch of the largest size, the mean of 64 batches, and of a permutation of all samples."""
    size = SIZES[-1]
    sampler, shuffle = Sampler(seed=0, task=Task.IMAGE_TEXT, size=size), Permutation(size, Purpose.ORDER, 0)
    starts = range(0, 64 * BATCH, BATCH)

    def mean(order: Callable[[Int64s], Int64s]) -> float:
        return round(float(np.mean([len(np.unique(order(np.arange(start, start + BATCH)) // SAMPLES_A_TAR)) for start in starts])), 1)

    return {"ours": mean(lambda places: sampler.at(places).indices), "whole_shuffle": mean(shuffle)}


if __name__ == "__main__":
    main()
