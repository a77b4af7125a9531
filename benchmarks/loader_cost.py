"""What the loader costs a training step: steps on one batch that lies on the device already, against steps on what the loader gives, which
processes or a thread read ahead.

    python -m benchmarks.loader_cost [--rounds 5] [--steps 20]

On a GPU: the base model on transcoded H.264 clips that the script draws, 64 a step, 8 frames of 224 pixels each. Without one: the demo's
model and clips. Forward, backward and update of steps on clips, as `mplug2 pretrain` takes them, on one rank. The cases take turns.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.clip_files import CAPTION, make_material
from benchmarks.record import spread, write
from data_tools.demo.make import make_demo
from data_tools.splits import Split as Part
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort
from data_tools.tokenizer import train_tokenizer
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import moved
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.split import Split
from megatron_mplug2.parallel.device import backend, device, on_gpu
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import StepWork, train_step

CONFIGS = Path(__file__).parents[1] / "configs" / "pretrain"
CLIPS = 128
"""Of the base model's: two steps' worth."""
WARMUP = 8
"""Steps of a case before those that count: as many as the loader has ready, so that what it made before they began is used up."""
CORES = len(os.sched_getaffinity(0))
FIXED, CASES = "fixed_batch", {"loader_processes": min(max(CORES - 1, 1), WARMUP), "loader_thread": 0}
"""`data.workers` of each."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Seconds."""

    whole: list[float]
    waits: list[float]
    """How long the loader was waited for in each; nothing for a fixed batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="that count, of each case in each round")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        name, overrides = _base(Path(folder)) if on_gpu() else _demo(Path(folder))
        overrides += [*_schedule(name, WARMUP + asked.steps), "layout.data=1", f"data.prefetch={WARMUP}"]
        config = load_config(CONFIGS / name, overrides)
        torch.set_num_threads(config.training.threads)
        dist.init_process_group(backend(), init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        rounds = list(_rounds(make_engine(config), config, asked.rounds))
        dist.destroy_process_group()
    settings = [setting for setting in overrides if folder not in setting]
    case = {"config": f"configs/pretrain/{name}", "set": settings, "workers": CASES, "rounds": asked.rounds, "load_before": load}
    path = write("loader_cost", f"python -m benchmarks.loader_cost --rounds {asked.rounds} --steps {asked.steps}", case, _figures(rounds))
    print(f"written to {path}")


def _demo(folder: Path) -> tuple[str, list[str]]:
    """The config's file and where its data are."""
    make_demo(folder / "corpus", seed=0)
    shard(
        Corpus(source="demo", annotation=folder / "corpus", media=folder / "corpus", split=Part.TRAIN),
        folder / "shards",
        Packing(),
        Effort(),
    )
    train_tokenizer([folder / "shards" / Part.TRAIN], folder / "vocab.txt", size=1000)
    return "demo.yaml", [f"data.vocab={folder}/vocab.txt", f"data.train.video_text=[{folder}/shards/train/video_text]"]


def _base(folder: Path) -> tuple[str, list[str]]:
    clips = make_material(folder / "material", CLIPS)["transcoded"]
    (folder / "texts.txt").write_text(CAPTION)
    train_tokenizer([folder / "texts.txt"], folder / "vocab.txt", size=200)
    data = [f"data.vocab={folder}/vocab.txt", f"data.train.video_text=[{','.join(map(str, clips.folders))}]"]
    return "base.yaml", [*data, "training.global_batch=64", "objectives.lm.instructions=1"]


def _schedule(name: str, steps: int) -> list[str]:
    shape = "frames: 8, resolution: 224" if name == "base.yaml" else "frames: 4, resolution: 32"
    return [f"schedule=[{{steps: {steps}, video_text: 1, {shape}}}]", "optimizer.warmup_steps=1", "training.validate_every=0"]


def _rounds(engine: Engine, config: RunConfig, rounds: int) -> Iterator[dict[str, Steps]]:
    """The first one, in which the device warms up, is left out."""
    for number in range(1 + rounds):
        found = {FIXED: _on_one_batch(engine, config)}
        for case, workers in CASES.items():
            data = config.data.model_copy(update={"workers": workers})
            found[case] = _on_the_loader(engine, config.model_copy(update={"data": data}))
        if number:
            yield found
            print(*(f"{case} {1000 * statistics.median(steps.whole):.1f} ms" for case, steps in found.items()), sep="   ", flush=True)


def _on_one_batch(engine: Engine, config: RunConfig) -> Steps:
    planned, batches = next(iter(_loader(config)))
    work = StepWork(step=0, task=planned.task, phase=planned.phase, batches=[moved(batch, device()) for batch in batches])
    guard, seconds = Guard(config, {}), []
    for _ in range(config.steps):
        start = time.perf_counter()
        _step(engine, work, guard)
        seconds.append(time.perf_counter() - start)
    return Steps(whole=seconds[WARMUP:], waits=[])


def _on_the_loader(engine: Engine, config: RunConfig) -> Steps:
    guard, seconds, waits = Guard(config, {}), [], []
    start = time.perf_counter()
    for planned, batches in _loader(config):
        waits.append(time.perf_counter() - start)
        _step(engine, StepWork(step=0, task=planned.task, phase=planned.phase, batches=[moved(one, device()) for one in batches]), guard)
        end = time.perf_counter()
        seconds.append(end - start)
        start = end
    return Steps(whole=seconds[WARMUP:], waits=waits[WARMUP:])


def _loader(config: RunConfig) -> Loader:
    return Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)


def _step(engine: Engine, work: StepWork, guard: Guard) -> None:
    train_step(engine, work, guard)
    if on_gpu():
        torch.cuda.synchronize()


def _figures(rounds: Sequence[dict[str, Steps]]) -> dict[str, Any]:
    figures: dict[str, Any] = {case: spread([second for one in rounds for second in one[case].whole]) for case in (FIXED, *CASES)}
    for case in CASES:
        shares = [statistics.median(one[case].whole) / statistics.median(one[FIXED].whole) - 1 for one in rounds]
        low, middle, high = statistics.quantiles(shares, n=4)
        figures[case]["data_wait_median_ms"] = round(1000 * statistics.median(wait for one in rounds for wait in one[case].waits), 3)
        figures[case]["cost_over_step"] = {"median": round(middle, 4), "quartile1": round(low, 4), "quartile3": round(high, 4)}
    return figures


if __name__ == "__main__":
    main()
