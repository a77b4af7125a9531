"""Whole runs of a config on forked ranks, ended on their way, and what they leave."""

import gc
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess

import torch

from launchers.local import launch
from launchers.ranks import Entry
from megatron_mplug2.checkpoint import commit
from megatron_mplug2.checkpoint.commit_file import read_commit
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.storage import StoredTensors
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.training import loop

PATIENCE_S = 120
"""For a whole run."""


def run_to_the_end(config: RunConfig) -> None:
    process = started(config)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def run_until(config: RunConfig, step: int, end: Callable[[ForkProcess], None], entry: Entry = loop.pretrain) -> None:
    """Starts a run and ends it once it has logged a step and has a checkpoint."""
    process = started(config, entry)
    deadline = time.monotonic() + PATIENCE_S
    while not (step in figures_of(config) and commit.latest(config.run_dir / "checkpoints")) and time.monotonic() < deadline:
        if not process.is_alive():
            break
        time.sleep(0.01)
    assert process.is_alive(), f"ended before step {step}"
    end(process)
    process.join(PATIENCE_S)


def kill(process: ForkProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


def terminate(process: ForkProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)


def started(config: RunConfig, entry: Entry = loop.pretrain) -> ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=_launched, args=(config, entry))
    process.start()
    return process


def _launched(config: RunConfig, entry: Entry) -> None:
    gc.freeze()  # what earlier tests left unreferenced, such as a process group, must not be destroyed here, without its threads
    launch(config, entry)


def figures_of(config: RunConfig) -> dict[int, dict[str, float | str]]:
    """What metrics.jsonl says of each training step, without what is time."""
    path = config.run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    steps = [json.loads(line) for line in lines if line.endswith("\n")]
    training = [step for step in steps if step["kind"] == "train"]
    return {step["step"]: {name: value for name, value in step.items() if not name.endswith("_s")} for step in training}


def tensors_of(config: RunConfig) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of the last checkpoint, whole."""
    folder = config.run_dir / "checkpoints" / commit.folder_name(config.steps)
    stored = StoredTensors(folder, read_commit(folder).files)
    # Adam's count of updates is a scalar; one type serves all here.
    pieces = [Piece(key=key, full_size=size, offsets=(0,) * len(size), tensor=torch.empty(size)) for key, size in stored.sizes().items()]
    stored.read(pieces)
    return {piece.key: piece.tensor for piece in pieces}
