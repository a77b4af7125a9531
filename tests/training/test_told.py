"""A step's figures are read once, before its update is queued: after it, the host would wait for a GPU to be done with that too. They are
the same on every rank."""

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.training import Precision
from megatron_mplug2.training import step
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.guard import Guard
from tests.ranks import run_ranks
from tests.training import cases, record


def _updated_when_read() -> tuple[list[bool], bool]:
    """At each read, and at the end."""
    config = cases.config(LayoutConfig())
    engine = make_engine(config)
    before = [weight.param.detach().clone() for weight in engine.weights]
    read, seen = step.Told.read, list[bool]()

    def updated() -> bool:
        return any(not torch.equal(weight.param, old) for weight, old in zip(engine.weights, before, strict=True))

    def watched(told: step.Told) -> step.StepLosses:
        seen.append(updated())
        return read(told)

    step.Told.read = watched  # type: ignore[method-assign, assignment]
    step.train_step(engine, cases.work(config, 0, Task.TEXT, 0, 1), Guard(config, {}))
    return seen, updated()


def test_figures_are_read_before_the_update() -> None:
    ((seen, updated),) = run_ranks(1, _updated_when_read)
    assert seen == [False] and updated


def _temperatures() -> list[float]:
    """As steps tell them, while weights are gathered beside the passes."""
    layout = LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True)
    config = cases.config(layout, microbatch=8, precision=Precision.BF16)
    engine, found = record.begin(config), []
    for number, task in enumerate((Task.IMAGE_TEXT, Task.TEXT, Task.TEXT)):
        told = step.backward(engine, cases.work(config, number, task, engine.topology.data_rank, engine.topology.data_size))
        found.append(told.read().temperature)
        engine.update(number)
    return found


def test_every_rank_tells_the_present_temperature() -> None:
    """Adam goes on moving it in steps of text, on one rank, and no module asks for it there: in bf16 it has a bucket of its own."""
    one, other = run_ranks(2, _temperatures)
    assert one == other and len(set(one)) == 3
