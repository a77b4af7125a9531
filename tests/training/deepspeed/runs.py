"""Both engines on the equality tests' case, all from one checkpoint: what their steps come to, and what they save."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.checkpoint.commit_file import read_commit
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.storage import StoredTensors
from megatron_mplug2.config.layout import DeepSpeedConfig, EngineChoice, LayoutConfig
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.state import DataState
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.deepspeed import library
from megatron_mplug2.training.engine import make_engine as make_megatron_engine
from megatron_mplug2.training.engines import make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.interface import TrainingEngine
from megatron_mplug2.training.step import backward, train_step
from tests.training import cases

library.load_deepspeed()  # once, before ranks are forked

Tensors = dict[str, torch.Tensor]
MIXED = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of a step."""

    losses: dict[str, float]
    grad_norm: float
    gradients: dict[str, float]
    """Norms by module."""
    weights: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run of the case: its layout and engine."""

    layout: LayoutConfig = field(default_factory=LayoutConfig)
    deepspeed: DeepSpeedConfig | None = None
    """None: Megatron-Core."""
    microbatches: int = 1
    frozen: tuple[Module, ...] = ()
    recompute: tuple[Block, ...] = ()
    precision: Precision = Precision.FP32
    vlc: VLCConfig = cases.VLC

    def config(self, run_dir: Path) -> RunConfig:
        size = cases.GLOBAL_BATCH // (self.microbatches * self.layout.data)
        config = cases.config(
            self.layout, microbatch=size, frozen=self.frozen, precision=self.precision, recompute=self.recompute, vlc=self.vlc
        )
        engine = EngineChoice.MEGATRON if self.deepspeed is None else EngineChoice.DEEPSPEED
        training = config.training.model_copy(update={"engine": engine})
        deepspeed = self.deepspeed or DeepSpeedConfig()
        return config.model_copy(update={"run_dir": run_dir, "training": training, "deepspeed": deepspeed})


def begin(config: RunConfig) -> None:
    """Saves the random weights that all runs begin with, after no step."""
    engine = make_megatron_engine(config)
    cases.randomise(engine.weights, engine.topology)
    _save(engine, 0)


def go_on(config: RunConfig, tasks: Sequence[Task]) -> list[Figures]:
    """From the newest checkpoint of the run, a step for each of `tasks` that is still to do, and another checkpoint."""
    library.KEPT_WHOLE = 0  # the case's weights are all small: each is sharded
    engine = make_engine(config, SectionClock())
    state = checkpoints.start(engine).state
    assert state is not None
    figures = [step(engine, number, task) for number, task in enumerate(tasks) if number >= state.steps]
    _save(engine, len(tasks))
    return figures


def go_on_without_the_first(config: RunConfig, tasks: Sequence[Task]) -> None:
    """As `go_on`, where the first step's update is refused."""
    library.KEPT_WHOLE = 0
    engine = make_engine(config, SectionClock())
    checkpoints.start(engine)
    for number, task in enumerate(tasks):
        backward(engine, cases.work(config, number, task, engine.topology.data_rank, engine.topology.data_size))
        engine.update(number, (lambda norm: True) if number else (lambda norm: False))
    _save(engine, len(tasks))


def told_of_nan(config: RunConfig) -> str:
    """Why a step is refused in which one rank's gradients are no numbers, and its losses are."""
    engine = make_engine(config, SectionClock())
    checkpoints.start(engine)
    topology = engine.topology
    if topology.data_rank == 1:
        next(engine.stage.parameters()).register_hook(lambda gradient: gradient * math.nan)
    work = cases.work(config, 0, Task.VIDEO_TEXT, topology.data_rank, topology.data_size)
    bad = train_step(engine, work, Guard(config, {})).bad
    assert bad is not None
    return bad.reason.split(",")[0]


def step(engine: TrainingEngine, number: int, task: Task) -> Figures:
    topology = engine.topology
    work = cases.work(engine.config, number, task, topology.data_rank, topology.data_size)
    result = train_step(engine, work, Guard(engine.config, {}), by_module=True)
    assert result.bad is None and result.norms is not None
    losses = {objective.value: loss for objective, loss in result.values.losses.items()}
    return Figures(losses=losses, grad_norm=result.grad_norm, gradients=result.norms.gradients, weights=result.norms.weights)


def saved(run_dir: Path, steps: int) -> Tensors:
    """Weights and optimizer state of a checkpoint, whole."""
    folder = run_dir / "checkpoints" / commit.folder_name(steps)
    stored = StoredTensors(folder, read_commit(folder).files)
    pieces = [Piece(key=key, full_size=size, offsets=(0,) * len(size), tensor=torch.empty(size)) for key, size in stored.sizes().items()]
    stored.read(pieces)
    return {piece.key: piece.tensor for piece in pieces}


def _save(engine: TrainingEngine, steps: int) -> None:
    with checkpoints.Saver(engine, lambda _: None) as saver:
        saver.save(DataState(steps=steps, datasets={}, vocabulary="v"), HealthState())
