"""Every size that is measured can be: by one engine, on steps and evaluations of the real thing."""

from pathlib import Path

import pytest

from benchmarks import contrastive, growth
from benchmarks.growth_retrieval import all_pairs, retrieve
from benchmarks.step_cases import batch_of
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.ranking import Retrieval
from megatron_mplug2.evaluation.retrieval import RERANKED
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.step import StepResult
from tests.ranks import run_ranks


@pytest.mark.parametrize("way", ["frames", "batch"])
def test_every_case_differs_in_one_size_and_suits_the_engine(way: str, tmp_path: Path) -> None:
    """Groups of hard negatives are the engine's: whole ones must fill every batch."""
    group = growth.config_for(growth.step_cases()["batch"][0], tmp_path).objectives.vlm.group
    sizes = []
    for case in growth.step_cases()[way]:
        config = growth.config_for(case, tmp_path)
        batch = batch_of(config)
        assert batch.task is Task.VIDEO_TEXT and len(batch.sample_ids) == case.samples and case.samples % group == 0
        sizes.append((config.schedule[0].frames, config.training.global_batch))
    varied, fixed = zip(*(size if way == "frames" else size[::-1] for size in sizes), strict=True)
    assert varied == (growth.FRAMES if way == "frames" else growth.BATCHES) and len(set(fixed)) == 1


def test_other_sizes_are_whole_too() -> None:
    assert all(contrastive.BATCH % ranks == 0 for ranks in growth.RANKS)
    assert min(growth.EVALUATED) > RERANKED, "else every pair is re-ranked"


def _work(config: RunConfig, larger: RunConfig) -> tuple[StepResult, Retrieval]:
    engine = make_engine(config)
    result: StepResult = growth.step(engine, larger)()
    all_pairs(config, 20)()
    return result, retrieve(Inference(engine.stage, engine.context), config, 20)()


def test_an_engine_steps_at_another_size_and_evaluates(tmp_path: Path) -> None:
    smallest, *_, largest = (growth.config_for(case, tmp_path) for case in growth.step_cases()["batch"])
    ((result, retrieval),) = run_ranks(1, _work, smallest, largest)
    assert result.bad is None and all(loss > 0 for loss in result.values.losses.values()) and len(result.values.losses) == 3
    assert retrieval.t2v.gallery == 20
