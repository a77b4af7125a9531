"""Sweeps of the demo's model for tests, and points' folders as runs leave them, written by what writes them there, without a training."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from launchers.sweep.hosts import Host, write_host
from launchers.sweep.points import Point, Sweep, load_sweep
from megatron_mplug2.observability.log import RunLog
from megatron_mplug2.observability.run_history import FINISHED, RunHistory
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.observability.stragglers import SectionTime
from tests.observability.samples import metrics_of, use_of

PROJECT = Path(__file__).parents[3]
CLIPS = "schedule=[{steps: 1, video_text: 1, frames: 4, resolution: 32}]"
WARMUP, STEPS = 2, 6


def write_sweep(folder: Path, **keys: Any) -> Path:
    """A file of a sweep in `folder / "state"`: 32 samples a step on nodes of 2 ranks."""
    tree = {
        "folder": str(folder / "state"),
        "config": str(PROJECT / "configs/pretrain/demo.yaml"),
        "overrides": [CLIPS, "data.workers=0"],
        "scaling": "strong",
        "batch": 32,
        "node_ranks": 2,
        "microbatch": [16],
        "steps": STEPS,
        "warmup_steps": WARMUP,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tree, **keys}))
    return path


def sweep_of(folder: Path, **keys: Any) -> Sweep:
    return load_sweep(write_sweep(folder, **keys))


def write_run(point: Point, *, step_s: float = 0.5, cores: int = 8, others: float = 0.0, begin: int = 0) -> None:
    """A finished run on one machine, on which `others` cores did other work: its warm-up is ten times as slow. `begin`: steps that an
    earlier start has done."""
    run = point.run
    history = RunHistory(run.run_dir)
    with RunLog(run.run_dir, begin) as log:
        history.started(begin, run.layout, [0])
        for step in range(begin, run.steps):
            seconds = step_s * (10 if step < begin + WARMUP else 1 + 0.01 * step)
            parts = {Section.FORWARD_BACKWARD: 0.7, Section.MEETING: 0.05, Section.GRADIENT_REDUCTION: 0.15, Section.OPTIMIZER: 0.1}
            times = {section: SectionTime(median=share * seconds, slowest=seconds, rank=0) for section, share in parts.items()}
            log.step(replace(metrics_of(step), step_s=seconds))
            log.use(replace(use_of(step), sections=times, memory_gb=1 + 0.1 * (step == 0)))
    history.ended(run.steps, FINISHED)
    ranks = run.layout.world_size
    for rank in range(ranks):
        write_host(run.run_dir, rank, host_of("a", range(cores), machine_s=10 * (ranks + others)))


def host_of(machine: str, cores: Iterable[int], *, threads: int = 1, gpu: str | None = None, machine_s: float = 0.0) -> Host:
    """Of a rank that has trained for ten seconds."""
    spent = {"seconds": 10.0, "machine_s": machine_s, "own_s": 10.0}
    return Host(machine=machine, cores=tuple(cores), threads=threads, gpu=gpu, processor="a processor", **spent)
