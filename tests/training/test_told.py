"""A step's figures are read once, before its update is queued: after it, the host would wait for a GPU to be done with that too."""

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.training import step
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.guard import Guard
from tests.ranks import run_ranks
from tests.training import cases


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
