"""The planner against this machine: step time and memory of layouts of two model sizes, predicted and measured.

    mplug2 bench planner

Predictions come from a profile that `benchmarks.calibrate` measures first, and from the config alone. Measured is a whole step of the
trainer on batches of noise that are there already: the quickest of its runs, by the rank that takes longest; and the most bytes of tensors
that were alive at once on each rank, by a dispatch-mode counter. Layouts have at most as many ranks as there are cores.

Where other programs keep the cores busy, times on the wall say nothing. What they don't disturb is reported too: the seconds of processor
that the ranks' own threads (not gloo's, which copy and add) used in their quickest step, the mean of them, against the parts of the
prediction without exchanges and waits.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from benchmarks.calibrate import measured_profile
from benchmarks.live_bytes import LiveBytes
from benchmarks.noise import noise_work
from benchmarks.ranks import run_ranks, usable_ranks
from benchmarks.record import write
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.stage_memory import stage_memory
from megatron_mplug2.planner.hardware import Cluster, Gpu
from megatron_mplug2.planner.profile import profile_tree
from megatron_mplug2.planner.step_time import StepModel, StepParts, mean_parts, step_models
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import StepWork, train_step

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "demo.yaml"
LEAST_STEPS, BUDGET_S = 8, 2.0
"""Of each task."""
TIME_GOAL, MEMORY_GOAL = 0.20, 0.10
MODELS: dict[str, tuple[str, ...]] = {
    "tiny": (),
    "middle": (
        "model.vision={width: 256, blocks: 6, heads: 4, ffn: 1024}",
        "model.text={hidden: 256, heads: 4, ffn: 1024, layers: 6, vocab_size: 8192}",
        "model.decoder_layers=3",
    ),
}
ALONE = "layout={tensor: 1, pipeline: 1, data: 1}"
TENSOR = "layout={tensor: 2, pipeline: 1, data: 1}"
SEQUENCE = "layout={tensor: 2, pipeline: 1, data: 1, sequence_parallel: true}"
PIPELINE = "layout={tensor: 1, pipeline: 2, data: 1}"
DATA = "layout={tensor: 1, pipeline: 1, data: 2}"


@dataclass(frozen=True)
class Case:
    model: str
    layout: str
    microbatch: int
    global_batch: int
    recompute: str = "none"

    @property
    def config(self) -> RunConfig:
        return load_config(
            CONFIG,
            [
                f"run_dir={tempfile.gettempdir()}",
                *MODELS[self.model],
                self.layout,
                f"training.microbatch={self.microbatch}",
                f"training.global_batch={self.global_batch}",
                f"training.recompute={self.recompute}",
                "objectives.vlm.group=4",
                "optimizer.warmup_steps=0",
            ],
        )

    @property
    def name(self) -> str:
        layout = self.config.layout
        said = [f"tensor {layout.tensor}", f"pipeline {layout.pipeline}", f"data {layout.data}"]
        more = [" sequence parallel"] if layout.sequence_parallel else []
        more += [" recompute"] if self.recompute != "none" else []
        return f"{self.model}, {' x '.join(said)}, {self.config.microbatches} x {self.microbatch}{''.join(more)}"


CASES = (
    Case("tiny", ALONE, 16, 16),
    Case("tiny", ALONE, 4, 16),
    Case("tiny", DATA, 8, 16),
    Case("tiny", TENSOR, 16, 16),
    Case("tiny", PIPELINE, 4, 16),
    Case("middle", ALONE, 8, 8),
    Case("middle", ALONE, 8, 8, "full"),
    Case("middle", DATA, 4, 16),
    Case("middle", TENSOR, 8, 8),
    Case("middle", SEQUENCE, 8, 8),
    Case("middle", PIPELINE, 4, 16),
    Case("middle", PIPELINE, 4, 16, "full"),
)


@dataclass(frozen=True, kw_only=True)
class Rank:
    stage: int
    peak: int
    """Bytes."""
    steps: dict[Task, "Seconds"]


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of a task's quickest step, each by its own clock: forward and backward run on the rank's thread alone on a CPU."""

    wall: float
    processor: float


def main() -> None:
    load = psutil.getloadavg()[0]
    profile = measured_profile()
    cases = [case for case in CASES if case.config.layout.world_size <= usable_ranks()]
    rows = [_row(case, profile.gpu()) for case in cases]
    figures: dict[str, Any] = {
        "layouts": rows,
        "largest_time_error": max(abs(row["time_error"]) for row in rows),
        "largest_time_error_of_a_task": max(abs(task["error"]) for row in rows for task in row["tasks"].values()),
        "largest_processor_error": max(abs(row["processor_error"]) for row in rows),
        "largest_memory_error": max(abs(row["memory_error"]) for row in rows),
        "goals": {"time": TIME_GOAL, "memory": MEMORY_GOAL},
        "profile": profile_tree(profile),
    }
    case = {"models": MODELS, "least_steps": LEAST_STEPS, "load_before": load}
    largest = ", ".join(f"{what} {figures[f'largest_{what}_error']:.1%}" for what in ("time", "processor", "memory"))
    print(f"largest errors: {largest}")
    print(f"written to {write('planner', 'mplug2 bench planner', case, figures)}")


def _row(case: Case, gpu: Gpu) -> dict[str, Any]:
    config = case.config
    partition = make_partition(config)
    cluster = Cluster(gpu=gpu, gpus=config.layout.world_size, node=config.layout.world_size)
    models = step_models(config, cluster, partition)
    memory = [rank.total for rank in stage_memory(config, partition)]
    ranks = run_ranks(config.layout.world_size, measure_rank, config)
    steps = {model.shape.task: _of_all([rank.steps[model.shape.task] for rank in ranks]) for model in models}
    predicted = mean_parts(models)
    measured = sum(model.share * steps[model.shape.task].wall for model in models)
    own = sum(model.share * steps[model.shape.task].processor for model in models)
    row = {
        "layout": case.name,
        "predicted_ms": round(1e3 * predicted.total, 2),
        "measured_ms": round(1e3 * measured, 2),
        "time_error": round(predicted.total / measured - 1, 4),
        "processor_error": round(_own_work(predicted) / own - 1, 4),
        "predicted_mb": [round(memory[rank.stage] / 1e6, 2) for rank in ranks],
        "measured_mb": [round(rank.peak / 1e6, 2) for rank in ranks],
        "memory_error": max((round(memory[rank.stage] / rank.peak - 1, 4) for rank in ranks), key=abs),
        "tasks": {model.shape.task.value: _task(model, steps[model.shape.task]) for model in models},
    }
    times = f"{row['predicted_ms']:8.1f} ms predicted, {row['measured_ms']:8.1f} measured ({row['time_error']:+.1%})"
    print(f"{case.name:66} {times}; processor {row['processor_error']:+.1%}; memory {row['memory_error']:+.1%}", flush=True)
    return row


def _of_all(ranks: Sequence[Seconds]) -> Seconds:
    """A step takes as long as its slowest rank; the ranks' own work is their mean, as in the planner's parts."""
    return Seconds(wall=max(rank.wall for rank in ranks), processor=statistics.mean(rank.processor for rank in ranks))


def _own_work(parts: StepParts) -> float:
    """Seconds without exchanges and waits."""
    return parts.total - parts.tensor - parts.waiting - parts.gradients - parts.weights


def _task(model: StepModel, measured: Seconds) -> dict[str, Any]:
    return {
        "predicted_ms": round(1e3 * model.parts.total, 2),
        "measured_ms": round(1e3 * measured.wall, 2),
        "error": round(model.parts.total / measured.wall - 1, 4),
        "processor_ms": round(1e3 * measured.processor, 2),
        "processor_error": round(_own_work(model.parts) / measured.processor - 1, 4),
        "parts_ms": {name: round(1e3 * seconds, 2) for name, seconds in vars(model.parts).items()},
    }


def measure_rank(config: RunConfig) -> Rank:
    """Memory first, in a step of every task; then the time of more of them."""
    guard = Guard(config, {})
    with LiveBytes() as live:
        engine = make_engine(config)
        for step, task in enumerate(Task):
            train_step(engine, _work(engine, task, step), guard)
    steps = {task: _quickest(engine, _work(engine, task, 0), guard) for task in Task}
    return Rank(stage=engine.topology.pipeline_rank, peak=live.peak, steps=steps)


def _work(engine: Engine, task: Task, step: int) -> StepWork:
    """As the loader hands it over: without pixels where the stage needs none."""
    work = noise_work(engine.config, task, step, engine.topology.data_rank)
    if engine.needs_media:
        return work
    batches = [replace(batch, media=None) if isinstance(batch, PairBatch) else batch for batch in work.batches]
    return replace(work, batches=batches)


def _quickest(engine: Engine, work: StepWork, guard: Guard) -> Seconds:
    """As many runs on all ranks. The steps for memory were to warm up."""
    first = _step(engine, work, guard)
    slowest = torch.tensor(first.wall)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    more = max(LEAST_STEPS, round(BUDGET_S / float(slowest))) - 1
    runs = [first, *(_step(engine, work, guard) for _ in range(more))]
    return Seconds(wall=min(one.wall for one in runs), processor=min(one.processor for one in runs))


def _step(engine: Engine, work: StepWork, guard: Guard) -> Seconds:
    dist.barrier()
    wall, processor = time.perf_counter(), time.thread_time()
    train_step(engine, work, guard)
    return Seconds(wall=time.perf_counter() - wall, processor=time.thread_time() - processor)


if __name__ == "__main__":
    main()
