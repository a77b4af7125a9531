"""Steps of families with a closed list, on tensor- and pipeline-parallel ranks against one process: two pictures as two frames, and
texts whose only objective is the decoder's."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.downstream import ClassesConfig, DownstreamConfig, Family
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import compare_step
from tests.training.record import Record

TASKS = (Task.IMAGE_TEXT, Task.TEXT, Task.IMAGE_TEXT)
LAYOUTS = {"tp2": LayoutConfig(tensor=2), "pp2-between-universal": LayoutConfig(pipeline=2, stage_starts=(8,))}


def config_of(layout: LayoutConfig, microbatches: int) -> RunConfig:
    """Of NLVR2's family, whose pictures pass the temporal modules."""
    vision = cases.MODEL.vision.model_copy(update={"temporal_on_images": True})
    model = cases.MODEL.model_copy(update={"vision": vision})
    config = cases.only(cases.config(layout, microbatch=cases.GLOBAL_BATCH // microbatches, model=model), ("lm",))
    family = DownstreamConfig(family=Family.PAIR_ENTAILMENT, classes=ClassesConfig(file=Path("classes.txt")))
    return config.model_copy(update={"downstream": family})


def pairs_of(plain: PairBatch, step: int) -> PairBatch:
    return replace(plain, media=torch.randn(cases.GLOBAL_BATCH, 3, 2, 16, 16, generator=torch.Generator().manual_seed(3000 + step)))


def with_pairs(trains, config: RunConfig) -> Record:  # type: ignore[no-untyped-def]
    """In a process of its own: its pictures come in twos."""
    single = cases.pair_batch
    cases.pair_batch = lambda step, task: pairs_of(single(step, task), step)
    return trains(config, TASKS)


@cache
def expected() -> Record:
    return run_ranks(1, with_pairs, reference.run, config_of(LayoutConfig(), 1))[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_equal_one_process(layout: str) -> None:
    ranks = run_ranks(2, with_pairs, record.run, config_of(LAYOUTS[layout], 2))
    for step, plain in enumerate(expected().steps):
        assert plain.losses.keys() == {"lm"}
        plain.negatives = None  # no layout draws them
        compare_step(plain, ranks, step)
    temporal = [gradient for name, gradient in expected().steps[0].gradients.items() if ".temporal." in name]
    assert temporal and all(gradient.abs().max() > 0 for gradient in temporal)
