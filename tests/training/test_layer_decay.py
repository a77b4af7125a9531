"""Rates that fall with a block's depth, against torch's AdamW with a group for each weight."""

from functools import cache

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.mplug2 import chain
from megatron_mplug2.training.optimizer import steps_below
from tests.models.sizes import model_of
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import compare_step
from tests.training.record import Record

TASKS = (Task.VIDEO_TEXT, Task.TEXT, Task.IMAGE_TEXT)
LAYOUTS = {
    "tp2-pp2": LayoutConfig(tensor=2, pipeline=2, stage_starts=(9,)),
    "dp2-zero1": LayoutConfig(data=2),
    "pp4-both-ties": LayoutConfig(pipeline=4, stage_starts=(6, 9, 15), zero1=False),
}


def test_depth_is_counted_from_the_end_of_each_tower() -> None:
    """BEiT's numbering: of 12 blocks the last one's rate is lowered once, the first one's 12 times, the embedding's 13 times."""
    model = model_of("base")
    below = {unit.name: steps_below(f"{unit.name}.weight", model) for unit in chain(model)}
    assert [below[f"vision.blocks.{index}"] for index in range(12)] == list(range(12, 0, -1))
    text = [f"text.layers.{index}" for index in range(10)] + ["universal.layers.0", "universal.layers.1"]
    assert [below[name] for name in text] == list(range(12, 0, -1))
    assert (below["vision.embedding"], below["text.embedding"], below["vision.output"]) == (13, 13, 0)
    assert not any(depth for name, depth in below.items() if name.startswith(("fusion", "decoder", "heads")))


def config_at(layout: LayoutConfig) -> RunConfig:
    config = cases.config(layout, microbatch=cases.GLOBAL_BATCH // (2 * layout.data))
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"layer_decay": 0.5})})


@cache
def expected() -> Record:
    return run_ranks(1, reference.run, config_at(LayoutConfig()), TASKS)[0]


@pytest.mark.parametrize("layout", ["tp2-pp2", "dp2-zero1", pytest.param("pp4-both-ties", marks=pytest.mark.long)])
def test_layouts_equal_one_process(layout: str) -> None:
    ranks = run_ranks(LAYOUTS[layout].world_size, record.run, config_at(LAYOUTS[layout]), TASKS)
    for step, plain in enumerate(expected().steps):
        compare_step(plain, ranks, step)
