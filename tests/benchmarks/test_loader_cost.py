"""The benchmark's configs, of which a machine runs only one."""

import pytest

from benchmarks import loader_cost
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.mixture import StepPlan


@pytest.mark.parametrize(("name", "overrides"), [("demo.yaml", []), ("base.yaml", ["training.global_batch=64"])])
def test_all_steps_are_on_clips_and_on_one_rank(name: str, overrides: list[str]) -> None:
    config = load_config(loader_cost.CONFIGS / name, [*overrides, *loader_cost._schedule(name, 12), "layout.data=1"])
    plan = StepPlan(config.schedule, seed=config.training.seed, global_batch=config.training.global_batch)
    assert {plan[step].task for step in range(len(plan))} == {Task.VIDEO_TEXT} and len(plan) == 12
    assert config.layout.world_size == 1
