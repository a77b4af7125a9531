"""Training steps, forward, backward and update, against the rate at which this machine multiplies matrices and against a plain PyTorch
model of the same shapes, all in one run.

    python -m benchmarks.step [--rounds 5] [--large] [--only CASE ...]

Without a GPU: base in fp32 on clips with captions, a thread a core. On a GPU, or with `--large`: large in bf16 by task and objectives. Each
program has a process of its own and the machine for itself: ours and the plain model are started one after the other, twice. (With both in
24 GB of memory at once, the kernel's search for free pages took a sixth of the plain model's step.) The plain model runs as torch comes,
ours with all that `mplug2 train` sets. Operations count once, by the formulas of `megatron_mplug2.models.flops`, whatever a program does.

The ceiling is the rate of the fastest product of matrices that torch has here, measured before, between and after the programs. In fp32 on
a CPU that is oneDNN's; `torch.mm`, which takes MKL's kernels, is told beside it.

Each case is written as soon as it is measured, with its commit and its machine, and leaves the file's other cases as they are: a machine
that is lent for minutes can measure them one at a time.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.ceiling import TORCH_MM, product_tflops
from benchmarks.kernel_parts import kernel_parts
from benchmarks.record import on_this_gpu, spread, write_part
from benchmarks.reference_model import ReferenceModel
from benchmarks.step_cases import CPU_CASE, GPU_CASES, Losses, StepCase, batch_of, config_of
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.batch import PairBatch, moved
from megatron_mplug2.observability.efficiency import StepFlops, known_peak
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.parallel.device import backend, device, keep_freed_memory, on_gpu, peak_memory_gb
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import StepWork, train_step

WARMUP = 4
"""Turns that do not count: memory is still being asked for in the first ones."""
LIVES = 2
"""How often each of two programs is started."""
GPU_TURN = 3
"""Steps of a turn."""
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="the GPU's cases wherever this is")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="cases by name")
    asked = parser.parse_args()
    cases = {case.name: case for case in (GPU_CASES if asked.large or on_gpu() else (CPU_CASE,))}
    unknown = [name for name in asked.only or () if name not in cases]
    if unknown:
        parser.error(f"no case here is called {unknown[0]}: name some of {', '.join(cases)}")
    torch.set_num_threads(CORES)
    load, precision = os.getloadavg()[0], Precision.BF16 if on_gpu() else Precision.FP32
    large = " --large" if asked.large else ""
    for name in asked.only or cases:
        figures = _measured(cases[name], precision, asked.rounds, beside=cases[name].losses is Losses.CAPTION)
        facts = asdict(cases[name]) | {"precision": precision, "rounds": asked.rounds, "load_before": load}
        command = f"python -m benchmarks.step --rounds {asked.rounds}{large} --only {name}"
        print(f"written to {write_part(on_this_gpu('step'), name, command, facts, figures)}", flush=True)


def _measured(case: StepCase, precision: Precision, rounds: int, *, beside: bool) -> dict[str, Any]:
    """`beside`: by the plain model too."""
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(case, Path(folder), precision)
        programs = {"ours": _ours, "reference": _reference} if beside else {"ours": _ours}
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        ends: dict[str, End] = {}
        products = [product_tflops(dtype)]
        for name in [*programs] * (LIVES if beside else 1):
            taken, ends[name] = _live(name, programs[name], config, rounds)
            seconds[name] += taken
            products.append(product_tflops(dtype))
    return _figures(config, case, seconds, ends, {library: statistics.median(p[library] for p in products) for library in products[0]})


Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class End:
    """What a program says when it is done."""

    memory_gb: float
    sections_ms: dict[str, float]
    """Of one more step."""
    kernels_ms: dict[str, float]
    """On a GPU: of one more step, by kind of work."""


class _Program:
    """A process that takes a step whenever it is told to."""

    def __init__(self, serve: Callable[[RunConfig, "_Turns"], End], config: RunConfig) -> None:
        self._started = time.perf_counter()
        self._connection, far_end = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(serve, config, far_end), daemon=True)
        self._process.start()
        far_end.close()

    @property
    def age(self) -> float:
        """Seconds since its process was started."""
        return time.perf_counter() - self._started

    def step(self) -> float:
        """Seconds of a step."""
        self._connection.send(True)
        seconds: float = self._connection.recv()
        return seconds

    def end(self) -> End:
        self._connection.send(False)
        end: End = self._connection.recv()
        self._process.join()
        return end


class _Turns:
    """The far end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take(self, step: Step) -> None:
        """Steps until told to end. On a GPU a turn is a few: all but the first begin while the update before still runs, as in a run."""
        steps = GPU_TURN if on_gpu() else 1
        while self._connection.recv():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            if on_gpu():
                torch.cuda.synchronize()
            self._connection.send((time.perf_counter() - start) / steps)


def _serve(serve: Callable[[RunConfig, _Turns], End], config: RunConfig, connection: Connection) -> None:
    torch.set_num_threads(CORES)
    connection.send(serve(config, _Turns(connection)))


def _ours(config: RunConfig, turns: _Turns) -> End:
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend(), init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        engine, step = our_step(config)
        turns.take(step)
        sections = {section.tag: 1000 * seconds for section, seconds in sections_of(engine, step).items() if seconds}
        memory = peak_memory_gb()
        kernels = kernel_parts(step) if on_gpu() else {}
        dist.destroy_process_group()
    return End(memory_gb=memory, sections_ms=sections, kernels_ms=kernels)


def our_step(config: RunConfig) -> tuple[Engine, Step]:
    engine, guard, batch = make_engine(config), Guard(config, {}), moved(batch_of(config), device())
    work = StepWork(step=0, task=batch.task, phase=config.schedule[0], batches=[batch])

    def step() -> None:
        engine.clock.enter(Section.MEETING)
        train_step(engine, work, guard)
        engine.clock.enter(Section.LOGGING)  # the update ends here, not where the next step begins

    return engine, step


def sections_of(engine: Engine, step: Step) -> dict[Section, float]:
    """Seconds of one more step's. Not asked for in every step: on a GPU the host would wait for the update before it goes on."""
    engine.clock.take()
    step()
    seconds = engine.clock.take()
    del seconds[Section.LOGGING]  # the wait for this step
    return seconds


def _reference(config: RunConfig, turns: _Turns) -> End:
    turns.take(reference_step(config))
    return End(memory_gb=peak_memory_gb(), sections_ms={}, kernels_ms={})


def reference_step(config: RunConfig) -> Step:
    """As a plain program would: autocast on a GPU, torch's own AdamW and clipping."""
    model, settings = ReferenceModel(config.model).to(device()), config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-5, betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=settings.weight_decay
    )
    batch = moved(batch_of(config), device())
    assert isinstance(batch, PairBatch) and batch.media is not None
    media, instructions, targets = batch.media.float() / 255, batch.instructions, batch.targets
    half = config.training.precision is Precision.BF16

    def step() -> None:
        with torch.autocast(device().type, torch.bfloat16) if half else nullcontext():
            loss = model(media, instructions, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _live(name: str, serve: Callable[[RunConfig, "_Turns"], End], config: RunConfig, rounds: int) -> tuple[list[float], End]:
    """A program from its start to its end: seconds a step, without the first turns."""
    if on_gpu():
        torch.cuda.empty_cache()  # what products held
    program = _Program(serve, config)
    seconds = [program.step()]
    print(f"{name}: ready after {program.age:.0f} s", flush=True)
    seconds += [program.step() for _ in range(WARMUP - 1 + rounds)]
    end = program.end()
    return seconds[WARMUP:], end


def _figures(
    config: RunConfig, case: StepCase, seconds: dict[str, list[float]], ends: dict[str, End], products: dict[str, float]
) -> dict[str, Any]:
    tflop = 1e-12 * StepFlops(config).of(case.task, config.schedule[0])
    peak = known_peak(torch.cuda.get_device_name(), config.training.precision) if on_gpu() else None
    rates = {library: round(rate, 4) for library, rate in products.items()}
    figures: dict[str, Any] = {"model_tflop_per_step": round(tflop, 4), "product_tflops": rates}
    for name, taken in seconds.items():
        figures[name] = _rates(taken, case.samples, tflop, products, peak) | {"peak_memory_gb": round(ends[name].memory_gb, 2)}
        if ends[name].sections_ms:
            figures[name]["last_step_ms"] = {section: round(value, 1) for section, value in ends[name].sections_ms.items()}
        if kernels := ends[name].kernels_ms:
            wait = 1000 * statistics.median(taken) - sum(kernels.values())
            figures[name]["kernels_ms"] = kernels | {"waiting for the host": round(max(0.0, wait), 2)}
        print(f"{case.name} {name}: {figures[name]}", flush=True)
    if len(seconds) > 1:
        own, theirs = (statistics.median(taken) for taken in seconds.values())
        figures["times_the_reference"] = round(theirs / own, 3)
        print(f"{figures['times_the_reference']} times the reference; products' TFLOP/s {rates}", flush=True)
    return figures


def _rates(taken: Sequence[float], samples: int, tflop: float, products: dict[str, float], peak: float | None) -> dict[str, Any]:
    middle = statistics.median(taken)
    rate = tflop / middle
    shares = {"share_of_ceiling": round(rate / max(products.values()), 4), "share_of_torch_mm": round(rate / products[TORCH_MM], 4)}
    if peak:
        shares["mfu"] = round(rate / peak, 4)
    return spread(taken) | {"samples_per_s": round(samples / middle, 3)} | shares


if __name__ == "__main__":
    main()
