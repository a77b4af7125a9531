"""The simulated order of a step's work against that of a real run of four stages, as Megatron-Core called forward and backward."""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.pipeline_parallel import schedules

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.planner.schedule import Kind, Work
from megatron_mplug2.planner.simulation import PassTimes, Timeline, feature_timeline, training_timeline
from megatron_mplug2.training.engine import make_engine
from tests.ranks import run_ranks
from tests.training import cases, record

STAGES, MICROBATCHES = 4, 8
Called = list[tuple[str, int]]


def noted(function: Callable[..., Any], kind_of: Callable[[], Kind], called: Called) -> Callable[..., Any]:
    """The function, with a note at each call: the microbatch is the how-manyeth of its kind."""

    def call(*arguments: Any, **named: Any) -> Any:
        kind = kind_of()
        called.append((kind.value, sum(other == kind for other, _ in called)))
        return function(*arguments, **named)

    return call


def train() -> tuple[Called, int]:
    """What this rank did in one step of pairs, and on which stage the contrastive head is."""
    called: Called = []
    forward = noted(schedules.forward_step, lambda: Kind.FORWARD if torch.is_grad_enabled() else Kind.FEATURES, called)
    schedules.forward_step = forward
    schedules.backward_step = noted(schedules.backward_step, lambda: Kind.BACKWARD, called)
    engine = make_engine(cases.config(LayoutConfig(pipeline=STAGES), microbatch=cases.GLOBAL_BATCH // MICROBATCHES))
    record.train(engine, (Task.IMAGE_TEXT,))
    return called, engine.partition.roles.features


def even(stages: int) -> PassTimes:
    return PassTimes(forward=(1.0,) * stages, backward=(2.0,) * stages, messages=(0.1,) * (stages - 1))


def simulated(owner: int) -> Timeline:
    return feature_timeline(even(owner + 1), MICROBATCHES).then(0.0, training_timeline(even(STAGES), MICROBATCHES))


def test_the_simulated_order_is_that_of_a_real_step_on_four_stages() -> None:
    ranks = run_ranks(STAGES, train)
    timeline = simulated(ranks[0][1])
    for stage, (called, _) in enumerate(ranks):
        assert [event.work for event in timeline.of(stage)] == [Work(Kind(kind), microbatch) for kind, microbatch in called]
    assert sum(len(called) for called, _ in ranks) > STAGES * 2 * MICROBATCHES, "no feature pass was made"
