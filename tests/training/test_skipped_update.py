"""A refused update leaves no trace, wherever the bad number is; and norms by module are the same at every layout."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

from megatron_mplug2.checkpoint.optimizer_state import held_states
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import ModuleNorms, train_step
from tests.ranks import run_ranks
from tests.training import cases, record
from tests.training.faults import fault_at, put_nan, with_nan_pixel
from tests.training.test_queue import QUEUE

TASKS = (Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT)
BAD = 1
"""The step that is: after one that fills the queue, before one that doesn't use it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    layout: LayoutConfig
    vlc: VLCConfig = cases.VLC
    in_pixel: bool = False
    """Where the number that is none comes in: with the media, or after the backward pass, with the gradients of rank 1."""


CASES = {
    "tp2": Case(layout=LayoutConfig(tensor=2, zero1=False)),
    "dp2 zero1 overlapped": Case(layout=LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True)),
    "pp2, pixel": Case(layout=LayoutConfig(pipeline=2), in_pixel=True),
    "dp2 queue, pixel": Case(layout=LayoutConfig(data=2), vlc=QUEUE, in_pixel=True),
    "pp2 queue": Case(layout=LayoutConfig(pipeline=2), vlc=QUEUE),
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    numbers: list[torch.Tensor]
    """Weights, then what the optimizer holds, averages, and the queue."""
    bad: list[int]


def train(case: Case, steps: tuple[int, ...]) -> Trained:
    config = cases.config(case.layout, microbatch=8, vlc=case.vlc)
    engine, guard, bad = record.begin(config), Guard(config, {}), []
    topology = engine.topology
    with nullcontext() if case.in_pixel else fault_at(step=BAD, rank=1, fault=put_nan):
        for step in steps:
            work = cases.work(config, step, TASKS[step], topology.data_rank, topology.data_size)
            if case.in_pixel and step == BAD and topology.data_rank == topology.data_size - 1:
                work = with_nan_pixel(work)
            if train_step(engine, work, guard).bad:
                bad.append(step)
    engine.finish_gathering()
    return Trained(numbers=[tensor.detach().clone() for tensor in held_by(engine)], bad=bad)


def held_by(engine: Engine) -> list[torch.Tensor]:
    held = held_states(engine.optimizer).values()
    states = [tensor for one in held for tensor in (one.values, *one.states.values(), one.step) if tensor is not None]
    averages = [average for kept in engine.averages for average in kept.averages]
    queue = engine.momentum.queue if engine.momentum is not None else None
    queued = [queue.memory.vision, queue.memory.text, queue.memory.ids, queue.enqueued] if queue is not None else []
    return [*(weight.param for weight in engine.weights), *states, *averages, *queued]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_bad_step_is_as_if_it_had_not_been(case: Case) -> None:
    skipped, never = run_ranks(2, train, case, (0, 1, 2)), run_ranks(2, train, case, (0, 2))
    assert [rank.bad for rank in skipped] == [[BAD], [BAD]], "all ranks see what one has"
    assert [rank.bad for rank in never] == [[], []]
    for one, other in zip(skipped, never, strict=True):
        assert len(one.numbers) == len(other.numbers)
        assert all(torch.equal(a, b) for a, b in zip(one.numbers, other.numbers, strict=True))


def norms(layout: LayoutConfig) -> list[tuple[float, ModuleNorms]]:
    config = cases.config(layout, microbatch=4)
    engine = make_engine(config)
    cases.randomise(engine.weights, engine.topology)
    engine.optimizer.reload_model_params()
    guard, found = Guard(config, {}), []
    for step, task in enumerate(TASKS):
        work = cases.work(config, step, task, engine.topology.data_rank, engine.topology.data_size)
        result = train_step(engine, work, guard, by_module=True)
        assert result.norms is not None
        found.append((result.grad_norm, result.norms))
    return found


@pytest.fixture(scope="module")
def of_one_process() -> list[tuple[float, ModuleNorms]]:
    steps: list[tuple[float, ModuleNorms]] = run_ranks(1, norms, LayoutConfig(zero1=False))[0]
    return steps


def test_modules_make_up_the_whole_norm(of_one_process: list[tuple[float, ModuleNorms]]) -> None:
    for task, (whole, by_module) in zip(TASKS, of_one_process, strict=True):
        assert math.hypot(*by_module.gradients.values()) == pytest.approx(whole, rel=1e-5)
        assert all(norm > 0 for norm in by_module.weights.values())
        assert (by_module.gradients["temporal"] > 0) == (task is Task.VIDEO_TEXT)


@pytest.mark.parametrize(
    "layout", [LayoutConfig(tensor=2, data=2), LayoutConfig(pipeline=2, tensor=2, zero1=False)], ids=["tp2 dp2", "pp2 tp2"]
)
def test_norms_by_module_do_not_depend_on_the_layout(layout: LayoutConfig, of_one_process: list[tuple[float, ModuleNorms]]) -> None:
    for rank in run_ranks(4, norms, layout):
        for (whole, by_module), (expected, modules) in zip(rank, of_one_process, strict=True):
            assert whole == pytest.approx(expected, rel=1e-4)
            assert by_module.gradients == pytest.approx(modules.gradients, rel=1e-4)
            assert by_module.weights == pytest.approx(modules.weights, rel=1e-4)
