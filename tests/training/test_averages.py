"""Averages of weights over steps: at every layout the plain recurrence, kept in checkpoints, and what an evaluation takes."""

from pathlib import Path

import pytest
import torch

from megatron_mplug2.checkpoint import store
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.state import DataState
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.step import validation_step
from tests.ranks import run_ranks
from tests.training import cases, record
from tests.training.compare import WEIGHT

SHARE = 0.6
TASKS = (Task.VIDEO_TEXT, Task.TEXT, Task.IMAGE_TEXT)
LAYOUTS = {
    "dp2-zero1-overlap": LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True),
    "tp2-pp2-ties": LayoutConfig(tensor=2, pipeline=2, stage_starts=(9,)),
}
Tensors = dict[str, torch.Tensor]


def config_at(layout: LayoutConfig, run_dir: Path, precision: Precision = Precision.FP32) -> RunConfig:
    config = cases.config(layout, microbatch=cases.GLOBAL_BATCH // (2 * layout.data), frozen=(Module.TEXT,), precision=precision)
    return config.model_copy(update={"run_dir": run_dir, "training": config.training.model_copy(update={"ema": SHARE})})


def copies(engine: Engine) -> Tensors:
    return {weight.name: weight.param.detach().clone() for weight in engine.weights}


def averages(engine: Engine) -> Tensors:
    assert engine.ema is not None
    return {weight.name: average.clone() for weight, average in zip(engine.ema.weights, engine.ema.averages, strict=True)}


def loss_of(engine: Engine) -> float:
    topology = engine.topology
    work = cases.work(engine.config, 9, Task.VIDEO_TEXT, topology.data_rank, topology.data_size)
    return sum(validation_step(engine, work).losses.values())


def train_and_save(config: RunConfig) -> tuple[Tensors, Tensors, Tensors, float, float]:
    """Averages by the recurrence and by the engine, weights, and the loss of both."""
    engine = record.begin(config)
    wanted = copies(engine)
    for step, task in enumerate(TASKS):
        record.train(engine, (task,), step)
        for name, weight in copies(engine).items():
            wanted[name] = SHARE * wanted[name] + (1 - SHARE) * weight
    with checkpoints.Saver(engine, note=print) as saver:
        saver.save(DataState(steps=len(TASKS), datasets={}, vocabulary=""), HealthState())
    plain = loss_of(engine)
    with engine.evaluated():
        evaluated = loss_of(engine)
    assert loss_of(engine) == plain
    return wanted, averages(engine), copies(engine), plain, evaluated


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_recurrence_and_what_an_evaluation_takes(tmp_path: Path, layout: str) -> None:
    config = config_at(LAYOUTS[layout], tmp_path)
    for wanted, found, weights, plain, evaluated in run_ranks(config.layout.world_size, train_and_save, config):
        assert found.keys() == {name for name in weights if not name.startswith("text.")}
        assert all(float((found[name] - wanted[name]).abs().max()) <= WEIGHT for name in found)
        assert any(not torch.allclose(found[name], weights[name], atol=1e-3) for name in found) and plain != evaluated
        losses = evaluated
    (loaded,) = run_ranks(1, loss_of_the_loaded, config_at(LayoutConfig(), tmp_path))
    assert loaded == pytest.approx(losses, rel=1e-5)


def loss_of_the_loaded(config: RunConfig) -> float:
    """On another layout, of what an evaluation loads."""
    engine = make_engine(config)
    store.load_weights(store.find_in(config.run_dir), engine.weights, engine.topology)
    return loss_of(engine)


def resume(config: RunConfig) -> Tensors:
    engine = make_engine(config)
    checkpoints.start(engine)
    return averages(engine)


def test_a_resume_goes_on_from_the_averages_of_fp32_weights(tmp_path: Path) -> None:
    """In bf16, where ranges of the fp32 copies lie on other ranks."""
    config = config_at(LayoutConfig(data=2), tmp_path, Precision.BF16)
    saved = run_ranks(2, train_and_save, config)
    for (_, found, *_), resumed in zip(saved, run_ranks(2, resume, config), strict=True):
        assert found.keys() == resumed.keys() and all(torch.equal(found[name], resumed[name]) for name in found)
    assert all(average.dtype == torch.float32 for average in resumed.values())
