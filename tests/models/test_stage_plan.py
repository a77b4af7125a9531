"""Idle time of a pipeline by its formula, against a step played through microbatch by microbatch."""

from itertools import pairwise

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.stage_plan import even_starts, mean_load_starts, mixture, pace, step_times
from megatron_mplug2.models.workload import feature_pass, training_pass
from tests.training import cases

STAGES, MICROBATCHES = 3, 4
CONFIG = cases.config(LayoutConfig(pipeline=STAGES), microbatch=cases.GLOBAL_BATCH // MICROBATCHES)


def forward_only(loads: list[float]) -> float:
    """A stage begins a microbatch when it has done the one before and the stage before it has done this one."""
    done = [0.0] * len(loads)
    for _ in range(MICROBATCHES):
        for stage, load in enumerate(loads):
            done[stage] = max(done[stage], done[stage - 1] if stage else 0.0) + load
    return done[-1]


def stage_loads(costs: tuple[float, ...]) -> list[float]:
    starts = (*make_partition(CONFIG).starts, len(costs))
    return [sum(costs[start:end]) for start, end in pairwise(starts)]


def test_a_step_lasts_as_long_as_its_microbatches_need() -> None:
    for times in step_times(CONFIG, make_partition(CONFIG)):
        costs = [training_pass(CONFIG, times.shape)] + ([] if times.shape.task == "text" else [feature_pass(CONFIG, times.shape)])
        assert times.duration == pytest.approx(sum(forward_only(stage_loads(one)) for one in costs))
        work = MICROBATCHES * sum(sum(one) for one in costs)
        assert sum(times.loads) == pytest.approx(work)
        assert times.idle == pytest.approx(1 - work / (STAGES * times.duration))
        assert 0 < times.bubble < 1


def test_one_stage_is_never_idle() -> None:
    config = cases.config(LayoutConfig(), microbatch=4)
    for times in step_times(config, make_partition(config)):
        assert (times.idle, times.bubble) == pytest.approx((0, 0))
    assert mixture(step_times(config, make_partition(config))) == (1,)
    assert pace(config, (0,)) == 1


def test_even_layers() -> None:
    """3 vision blocks, 3 text layers of which 2 universal, 2 fusion and 2 decoder layers: 10 in two halves."""
    starts = even_starts(make_partition(cases.config(LayoutConfig(pipeline=2))))
    names = [unit.name for unit in make_partition(CONFIG).units]
    assert sum(name[-1].isdecimal() for name in names[: starts[1]]) == 5
    assert pace(CONFIG, make_partition(CONFIG).starts) <= pace(CONFIG, mean_load_starts(CONFIG))
