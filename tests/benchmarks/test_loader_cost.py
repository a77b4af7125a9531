"""The benchmark's configs, of which a machine runs only one, and what it makes of a part of its turns."""

from pathlib import Path

import pytest

from benchmarks import clip_files, loader_cost
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.mixture import StepPlan


@pytest.mark.parametrize(("name", "overrides"), [("demo.yaml", []), ("base.yaml", ["training.global_batch=64"])])
def test_all_steps_are_on_clips_and_on_one_rank(name: str, overrides: list[str]) -> None:
    config = load_config(loader_cost.CONFIGS / name, [*overrides, *loader_cost._schedule(name, 12), "layout.data=1"])
    plan = StepPlan(config.schedule, seed=config.training.seed, global_batch=config.training.global_batch)
    assert {plan[step].task for step in range(len(plan))} == {Task.VIDEO_TEXT} and len(plan) == 12
    assert config.layout.world_size == 1


def test_the_transcoded_clips_are_all_there(tmp_path: Path) -> None:
    folder = clip_files.make_transcoded(tmp_path / "material", clips=3, processes=2)
    manifest = Manifest.load(folder)
    assert len(manifest) == 3
    assert {min(facts.width, facts.height) for facts in map(manifest.facts, range(3)) if facts} == {240, 256}


def test_figures_are_made_of_the_turns_that_there_were() -> None:
    slow, fast = loader_cost.Turn(whole=[0.3, 0.3], waits=[0.2, 0.2]), loader_cost.Turn(whole=[0.2, 0.2], waits=[0.0, 0.0])
    processes, fixed, thread = loader_cost.PROCESSES, loader_cost.FIXED, loader_cost.THREAD
    assert loader_cost._figures({processes: [slow]}) == {
        processes: {"median_ms": 300.0, "quartile1_ms": 300.0, "quartile3_ms": 300.0, "runs": 2, "data_wait_median_ms": 200.0}
    }
    figures = loader_cost._figures({processes: [slow, fast], fixed: [fast, fast], thread: [slow]})
    assert "data_wait_median_ms" not in figures[fixed]
    assert figures[processes]["cost_over_step"]["median"] == 0.25
    assert figures[thread]["cost_over_step"] == {"median": 0.5, "quartile1": 0.5, "quartile3": 0.5}
