"""How costs grow: a training step with frames and with the batch, VLC's memory with a rank's part of the batch, an evaluation of retrieval
with its samples, and the sampler with the size of its dataset.

    python -m benchmarks.growth [--rounds 7]

The demo's model on one core. Seconds are the quickest of all rounds, in which the sizes take turns; the process's CPU seconds stand beside
the clock's, since other programs of the machine hardly move them. Each curve is fitted by a line and by a parabola (`benchmarks.fits`).
Two things are quadratic by nature, and told apart. All frames' tokens attend to each other in the last universal layer: what of a step's
operations that is, the `flops` curves say, of large at 224 pixels too. An evaluation scores all pairs of texts and clips: `all_pairs`.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import contrastive, sampler
from benchmarks.fits import Curve
from benchmarks.growth_picture import draw
from benchmarks.growth_retrieval import all_pairs, retrieve
from benchmarks.record import RESULTS, write
from benchmarks.step_cases import StepCase, batch_of, config_of
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.batch import moved
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.observability.efficiency import StepFlops
from megatron_mplug2.parallel.device import backend, device, keep_freed_memory, on_gpu
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import StepWork, train_step

STEP = StepCase(model="tiny", task=Task.VIDEO_TEXT, samples=8, frames=4)
FRAMES = (1, 2, 4, 8, 16)
BATCHES = (4, 8, 16, 32)
RANKS = (256, 128, 64, 32, 16)
"""Of the same global batch."""
EVALUATED = (64, 128, 256, 512)
"""Clips, each with a text."""
SAMPLED = (1_000_000, 64_000_000, 256_000_000, 100_000_000, 400_000_000)
"""The first three stand alike between powers of four, as the last two do: the cipher of the order goes round once, or up to four times,
by where its size lies between them (cycle walking)."""

CLOCK = "_clock"
"""How the names of curves end that are seconds of the clock."""
ALL_PAIRS = "retrieval_all_pairs"
PICTURED = ("step_by_frames", "step_by_batch", "vlc_memory", "retrieval")

Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds, load = parser.parse_args().rounds, os.getloadavg()[0]
    torch.set_num_threads(1)
    keep_freed_memory()
    curves = {"vlc_memory": vlc_memory(), **step_flops()}
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend(), init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        curves |= timed_curves(make_engine(config_for(step_cases()["batch"][0], Path(folder))), Path(folder), rounds)
        dist.destroy_process_group()
    print(*(curve for name, curve in curves.items() if not name.endswith(CLOCK) and name != ALL_PAIRS), sep="\n", flush=True)
    pairs = _share_of_all_pairs(curves)
    print(f"scores of all pairs: {100 * pairs:.2f} % of the evaluation of {EVALUATED[-1]} clips")
    sampled = {str(size): _sampled(size) for size in SAMPLED}
    for size, found in sampled.items():
        print(f"sampler of {int(size):,}: {found}")
    case = {"step": asdict(STEP), "rounds": rounds, "global_batch": contrastive.BATCH, "chunk": contrastive.CHUNK, "load_before": load}
    figures = {name: curve.tree for name, curve in curves.items()} | {"all_pairs_share_at_the_largest": round(pairs, 5), "sampler": sampled}
    path = write("growth", "mplug2 bench growth", case, figures)
    print(f"written to {path} and {_write_picture(draw([curves[name] for name in PICTURED]))}")


def vlc_memory() -> Curve:
    """Beside the gathered features, of ranks that share the same global batch."""
    points = {contrastive.BATCH // ranks: contrastive.peak_bytes(contrastive.ours, ranks) / 1e6 for ranks in RANKS}
    return Curve(title="VLC's memory", size="samples of a rank", cost="peak MB", points=points)


def step_cases() -> dict[str, list[StepCase]]:
    return {"frames": [replace(STEP, frames=n) for n in FRAMES], "batch": [replace(STEP, samples=n) for n in BATCHES]}


def config_for(case: StepCase, folder: Path) -> RunConfig:
    return config_of(case, folder, Precision.FP32)


def step_flops() -> dict[str, Curve]:
    """By the model's formulas: the demo's, and large's."""
    curves = {}
    for model in (STEP.model, "large"):
        points = {}
        for case in step_cases()["frames"]:
            config = config_for(replace(case, model=model), Path())
            points[case.frames] = StepFlops(config).of(case.task, config.schedule[0]) / 1e9
        curves[f"flops_{model}"] = Curve(title=f"operations of a step of {model}", size="frames", cost="GFLOP", points=points)
    return curves


def timed_curves(engine: Engine, folder: Path, rounds: int) -> dict[str, Curve]:
    """Of steps, then of evaluations, which switch the engine's dropout off."""
    curves: dict[str, Curve] = {}
    for way, cases in step_cases().items():
        sizes = FRAMES if way == "frames" else BATCHES
        steps = dict(zip(sizes, (step(engine, config_for(case, folder)) for case in cases), strict=True))
        curves |= _two_clocks(f"step_by_{way}", "training step", way, _quickest(steps, rounds))
    inference, config = Inference(engine.stage, engine.context), engine.config
    whole = _quickest({n: retrieve(inference, config, n) for n in EVALUATED}, max(2, rounds // 2))
    pairs = _quickest({n: all_pairs(config, n) for n in EVALUATED}, rounds)
    rest = {n: (whole[n][0] - pairs[n][0], whole[n][1] - pairs[n][1]) for n in EVALUATED}
    curves |= _two_clocks("retrieval", "evaluation of retrieval", "clips", whole)
    curves |= _two_clocks(ALL_PAIRS, "scores of all pairs within it", "clips", pairs)
    return curves | _two_clocks("retrieval_without_all_pairs", "evaluation without them", "clips", rest)


def _share_of_all_pairs(curves: dict[str, Curve]) -> float:
    pairs, whole = (curves[name].points[EVALUATED[-1]] for name in (ALL_PAIRS, "retrieval"))
    return pairs / whole


def step(engine: Engine, config: RunConfig) -> Work:
    """A training step of `config`'s only task and batch, whatever those of the engine's own config."""
    batch, guard = moved(batch_of(config), device()), Guard(config, {})
    work = StepWork(step=0, task=batch.task, phase=config.schedule[0], batches=[batch])
    return lambda: train_step(engine, work, guard)


Seconds = tuple[float, float]
"""Of the CPU and of the clock."""


def _quickest(works: dict[int, Work], rounds: int) -> dict[int, Seconds]:
    """The first round warms up."""
    taken: dict[int, list[Seconds]] = {size: [] for size in works}
    for number in range(1 + rounds):
        for size, work in works.items():
            cpu, clock = time.process_time(), time.perf_counter()
            work()
            if on_gpu():
                torch.cuda.synchronize()
            if number:
                taken[size].append((time.process_time() - cpu, time.perf_counter() - clock))
    return {size: _least(all_of_it) for size, all_of_it in taken.items()}


def _least(taken: Sequence[Seconds]) -> Seconds:
    cpu, clock = zip(*taken, strict=True)
    return min(cpu), min(clock)


def _two_clocks(name: str, title: str, size: str, seconds: dict[int, Seconds]) -> dict[str, Curve]:
    costs = {name: "CPU seconds", f"{name}{CLOCK}": "seconds of the clock"}
    return {
        key: Curve(title=title, size=size, cost=cost, points={n: round(taken[place], 6) for n, taken in seconds.items()})
        for place, (key, cost) in enumerate(costs.items())
    }


def _sampled(size: int) -> dict[str, float]:
    found = sampler.apart("ours", size)
    assert isinstance(found, dict)
    return found


def _write_picture(png: bytes) -> Path:
    path = RESULTS / "growth.png"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(png)
    unfinished.replace(path)
    return path


if __name__ == "__main__":
    main()
