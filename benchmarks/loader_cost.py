"""What the loader costs a training step: steps on one batch that lies on the device already, against steps on what the loader gives, which
processes or a thread read ahead.

    python -m benchmarks.loader_cost [--rounds 5] [--steps 20]

On a GPU: the base model on H.264 clips that the script draws and transcodes to 3 frames a second, 64 a step, 8 frames of 224 pixels each.
Without one: the demo's model and clips. Forward, backward and update of steps on clips, as `mplug2 pretrain` takes them, on one rank. The
cases take turns, a round one of each, and the loaders live through all rounds. A turn ends by its steps or by TURN_S, and what was measured
is written after each.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.clip_files import CAPTION, make_transcoded
from benchmarks.record import on_this_gpu, spread, write
from data_tools.demo.make import make_demo
from data_tools.splits import Split as Part
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort
from data_tools.tokenizer import train_tokenizer
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.split import Split
from megatron_mplug2.parallel.device import backend, on_gpu
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.feed import Feed, Given, on_device
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import StepWork, train_step

CONFIGS = Path(__file__).parents[1] / "configs" / "pretrain"
CLIPS = 128
"""Of the base model's: two steps' worth."""
CORES = len(os.sched_getaffinity(0))
WARMUP = max(8, CORES)
"""Steps of a turn before those that count: as many as a loader has ready, so that what it made before they began is used up."""
TURN_S = 8.0
"""Seconds after which a turn's steps end, if there were LEAST; so do those before them, and the pause after them."""
LEAST = 2
PROCESSES, FIXED, THREAD = "loader_processes", "fixed_batch", "loader_thread"
WORKERS = {PROCESSES: min(max(CORES - 1, 1), WARMUP), THREAD: 0}
"""`data.workers` of each."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Its steps, in seconds."""

    whole: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """How long the loader was waited for in each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="that count, of each case in each round")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as loaders:
        name, overrides = _base(Path(folder)) if on_gpu() else _demo(Path(folder))
        overrides += [*_schedule(name, 1 + asked.rounds * (WARMUP + asked.steps)), "layout.data=1", f"data.prefetch={WARMUP}"]
        config = load_config(CONFIGS / name, overrides)
        torch.set_num_threads(config.training.threads)
        dist.init_process_group(backend(), init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        engine = make_engine(config)
        print("the engine is made", flush=True)
        settings = [setting for setting in overrides if folder not in setting]
        case = {"config": f"configs/pretrain/{name}", "set": settings, "workers": WORKERS, "rounds": asked.rounds, "load_before": load}
        command = f"python -m benchmarks.loader_cost --rounds {asked.rounds} --steps {asked.steps}"
        turns: dict[str, list[Turn]] = {}
        for which, turn in _turns(engine, config, asked.rounds, asked.steps, loaders):
            turns.setdefault(which, []).append(turn)
            path = write(on_this_gpu("loader_cost"), command, case, _figures(turns))
            wait = f", of which {1000 * statistics.median(turn.waits):.1f} wait for the loader" if which != FIXED else ""
            print(f"{which:16} {len(turn.whole):3} steps of {1000 * statistics.median(turn.whole):.1f} ms{wait}", flush=True)
        loaders.close()
        dist.destroy_process_group()
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
    clips = make_transcoded(folder / "material", CLIPS, CORES)
    (folder / "texts.txt").write_text(CAPTION)
    train_tokenizer([folder / "texts.txt"], folder / "vocab.txt", size=200)
    data = [f"data.vocab={folder}/vocab.txt", f"data.train.video_text=[{clips}]"]
    return "base.yaml", [*data, "training.global_batch=64", "objectives.lm.instructions=1"]


def _schedule(name: str, steps: int) -> list[str]:
    shape = "frames: 8, resolution: 224" if name == "base.yaml" else "frames: 4, resolution: 32"
    return [f"schedule=[{{steps: {steps}, video_text: 1, {shape}}}]", "optimizer.warmup_steps=1", "training.validate_every=0"]


def _turns(engine: Engine, config: RunConfig, rounds: int, steps: int, loaders: ExitStack) -> Iterator[tuple[str, Turn]]:
    """The cases' in turn. The fixed batch is the first one of the processes."""
    feeds: dict[str, Feed] = {}
    guard = Guard(config, {})
    for case in (PROCESSES, FIXED, THREAD) * rounds:
        if case not in feeds:  # a loader only now, so that what was measured before is safe from it
            feeds[case] = loaders.enter_context(closing(_feed(config, WORKERS[case])))
            first = _first(case, feeds[case])
            feeds.setdefault(FIXED, Feed(repeat(first), None))
        _taken(engine, guard, feeds[case], WARMUP)
        turn = _taken(engine, guard, feeds[case], steps)
        yield case, turn
        if case != FIXED:  # it may read ahead what it lacks, so that it does not while others are measured
            time.sleep(min(WARMUP * statistics.median(turn.whole), TURN_S))


def _feed(config: RunConfig, workers: int) -> Feed:
    data = config.data.model_copy(update={"workers": workers})
    return on_device(Loader(config.model_copy(update={"data": data}), Split.TRAIN, data_rank=0, data_size=1, needs_media=True))


def _first(case: str, feed: Feed) -> Given:
    start = time.perf_counter()
    given = next(feed)
    print(f"{case:16} has its first batch after {time.perf_counter() - start:.1f} s", flush=True)
    return given


def _taken(engine: Engine, guard: Guard, feed: Feed, steps: int) -> Turn:
    """As many steps, or fewer where they take longer than TURN_S. On a GPU each as long as the mean: it is waited for at the end alone,
    since work of the host that runs beside it costs a step nothing."""
    turn = Turn()
    begin = end = time.perf_counter()
    while len(turn.whole) < steps and (end - begin < TURN_S or len(turn.whole) < LEAST):
        start = end
        planned, batches = next(feed)
        turn.waits.append(time.perf_counter() - start)
        work = StepWork(step=0, task=planned.task, phase=planned.phase, batches=batches)
        train_step(engine, work, guard, meanwhile=feed.fetch_next)
        end = time.perf_counter()
        turn.whole.append(end - start)
    if on_gpu():
        torch.cuda.synchronize()
        turn.whole[:] = [(time.perf_counter() - begin) / len(turn.whole)] * len(turn.whole)
    return turn


def _figures(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Of the cases that had a turn. The cost of a loader: by round, against the fixed batch's turn."""
    figures: dict[str, Any] = {case: spread([second for turn in own for second in turn.whole]) for case, own in turns.items()}
    for case in figures.keys() & WORKERS.keys():
        figures[case]["data_wait_median_ms"] = round(1000 * statistics.median(wait for turn in turns[case] for wait in turn.waits), 3)
        rounds = zip(turns[case], turns.get(FIXED, ()), strict=False)
        shares = [statistics.median(own.whole) / statistics.median(fixed.whole) - 1 for own, fixed in rounds]
        if shares:
            low, middle, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else 3 * shares
            figures[case]["cost_over_step"] = {"median": round(middle, 4), "quartile1": round(low, 4), "quartile3": round(high, 4)}
    return figures


if __name__ == "__main__":
    main()
