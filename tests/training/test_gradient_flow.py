"""What the chain says of gradients, from the config alone, is what autograd does."""

from collections.abc import Sequence
from functools import partial

import pytest

from megatron_mplug2.config.checks import modules_used
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.model import Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.models.chain import Streams, alive_at, differentiable_at
from megatron_mplug2.models.shapes import Stream
from megatron_mplug2.training import contrast
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.step import backward, inline_solver, make_microbatches
from tests.config.test_checks import DEMO
from tests.ranks import run_ranks
from tests.training import cases

FROZEN: list[tuple[Module, ...]] = [
    (),
    (Module.VISION,),
    (Module.VISION, Module.TEMPORAL, Module.UNIVERSAL),
    (Module.TEXT, Module.UNIVERSAL, Module.DECODER),
    tuple(set(Module) - {Module.HEADS}),
    tuple(set(Module) - {Module.FUSION}),
]

At = tuple[Task, int]
"""A step of a task, and a cut of the chain."""


def said_and_done(frozen: tuple[Module, ...], engine: Engine) -> tuple[dict[At, set[Stream]], dict[At, set[Stream]]]:
    """Streams that need a gradient at every cut: by the chain, and by autograd, with the model run unit by unit."""
    for weight in engine.weights:
        weight.param.requires_grad_(weight.module not in frozen)
    said, done, units = {}, {}, engine.stage.units
    for task in Task:
        (micro,) = make_microbatches(engine, cases.work(engine.config, 0, task, 0, 1))
        micro.solver = inline_solver(engine, partial(contrast.solve, engine.config, engine.topology, 0), micro)
        streams: Streams = {}
        for cut, unit in enumerate(units):
            said[task, cut] = set(differentiable_at(units, cut, task, frozen))
            done[task, cut] = {stream for stream in alive_at(units, cut, task) if streams[stream].requires_grad}
            if not unit.flow(task).idle:
                streams |= unit.run(engine.stage.block(unit.name), streams, micro)
    return said, done


def on_one_rank(weighted: Sequence[str]) -> list[tuple[dict[At, set[Stream]], dict[At, set[Stream]]]]:
    engine = make_engine(cases.only(cases.config(LayoutConfig(), microbatch=cases.GLOBAL_BATCH), weighted))
    return [said_and_done(frozen, engine) for frozen in FROZEN]


@pytest.mark.parametrize("weighted", [("mlm", "vlc", "vlm", "lm"), ("lm",), ("mlm", "vlc"), ("mlm", "vlc", "vlm")])
def test_streams_at_every_cut(weighted: Sequence[str]) -> None:
    (found,) = run_ranks(1, on_one_rank, weighted)
    for said, done in found:
        assert said == done
    assert any(found[0][0].values()) and found[0][0] != found[1][0]


def modules_with_gradients(temporal_on_images: bool, weighted: Sequence[str]) -> dict[Task, set[Module]]:
    vision = cases.MODEL.vision.model_copy(update={"temporal_on_images": temporal_on_images})
    config = cases.config(LayoutConfig(), model=cases.MODEL.model_copy(update={"vision": vision}))
    engine = make_engine(cases.only(config, weighted))
    cases.randomise(engine.weights, engine.topology)
    found = {}
    for step, task in enumerate(Task):
        backward(engine, cases.work(engine.config, step, task, 0, 1))
        found[task] = {weight.module for weight in engine.weights if weight.param.main_grad.any()}  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("temporal_on_images", "weighted"),
    [(False, ("mlm", "vlc", "vlm", "lm")), (True, ("mlm", "vlc", "vlm", "lm")), (False, ("lm",)), (False, ("mlm", "vlc"))],
)
def test_modules_that_a_task_trains(temporal_on_images: bool, weighted: Sequence[str]) -> None:
    (found,) = run_ranks(1, modules_with_gradients, temporal_on_images, weighted)
    model = load_config(DEMO, [f"model.vision.temporal_on_images={temporal_on_images}"]).model
    objectives = cases.only(cases.config(LayoutConfig()), weighted).objectives
    assert found == {task: modules_used(model, objectives, task) for task in Task}
