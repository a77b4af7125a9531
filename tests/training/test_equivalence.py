"""Every layout against one process with one batch: losses, gradient norm, gradients, negatives, and weights after each step."""

from functools import cache
from itertools import product

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block
from megatron_mplug2.config.schedule import Task
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import compare_step
from tests.training.record import Record

MIXED = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT)
ALONE = tuple((task,) * 3 for task in Task)
# The chain of the case: 0 vision embedding, 1-3 blocks, 4 output, 5 text embedding, 6 text layer, 7-8 universal, 9 MLM head,
# 10 contrast, 11-12 fusion, 13 matching, 14 decoder embedding, 15-16 layers, 17 LM head.
LAYOUTS = {
    "tp2": LayoutConfig(tensor=2),
    "tp2-sp": LayoutConfig(tensor=2, sequence_parallel=True),
    "dp2": LayoutConfig(data=2, zero1=False),
    "dp2-zero1": LayoutConfig(data=2),
    "dp2-overlap": LayoutConfig(data=2, zero1=False, overlap_grad_reduce=True),
    "dp2-zero1-overlap": LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True),
    "pp2-between-universal": LayoutConfig(pipeline=2, stage_starts=(8,)),
    "pp2-in-fusion": LayoutConfig(pipeline=2, stage_starts=(12,)),
    "pp2-in-vision": LayoutConfig(pipeline=2, stage_starts=(2,)),
    "pp4-both-ties": LayoutConfig(pipeline=4, stage_starts=(6, 9, 15), zero1=False),
    "pp4-by-cost": LayoutConfig(pipeline=4),
    "pp2-dp2-overlap": LayoutConfig(pipeline=2, data=2, stage_starts=(9,), overlap_grad_reduce=True, overlap_param_gather=True),
    "tp2-pp2": LayoutConfig(tensor=2, pipeline=2, stage_starts=(9,)),
    "tp2-sp-pp2-dp2": LayoutConfig(tensor=2, pipeline=2, data=2, sequence_parallel=True, stage_starts=(15,)),
}
SHORT = [
    ("tp2", 1),
    ("tp2-sp", 2),
    ("dp2", 4),
    ("dp2-zero1", 1),
    ("dp2-zero1-overlap", 2),
    ("pp2-between-universal", 2),
    ("pp2-in-fusion", 4),
    ("pp4-both-ties", 4),
]


@cache
def expected(tasks: tuple[Task, ...]) -> Record:
    return run_ranks(1, reference.run, cases.config(LayoutConfig()), tasks)[0]


def check(layout: LayoutConfig, microbatches: int, tasks: tuple[Task, ...], recompute: tuple[Block, ...] = ()) -> None:
    config = cases.config(layout, microbatch=cases.GLOBAL_BATCH // (microbatches * layout.data), recompute=recompute)
    ranks = run_ranks(layout.world_size, record.run, config, tasks)
    wanted = expected(tasks)
    for step in range(len(tasks)):
        compare_step(wanted.steps[step], ranks, step)
    first, last = wanted.steps[0].weights, wanted.steps[-1].weights
    moved = [float((last[name] - first[name]).abs().max()) for name in first]
    assert sum(change > 1e-3 for change in moved) > len(moved) / 2, "the case doesn't train"


@pytest.mark.parametrize(("layout", "microbatches"), SHORT)
def test_mixed_tasks_equal_one_process(layout: str, microbatches: int) -> None:
    check(LAYOUTS[layout], microbatches, MIXED)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_one_rank_equals_one_process_with_recompute(microbatches: int) -> None:
    check(LayoutConfig(), microbatches, MIXED, tuple(Block))


@pytest.mark.parametrize(
    ("layout", "block"), [("pp2-in-vision", Block.VISION), pytest.param("tp2-sp", Block.UNIVERSAL, marks=pytest.mark.long)]
)
def test_recompute_of_one_kind_of_block_equals_one_process(layout: str, block: Block) -> None:
    check(LAYOUTS[layout], 2, MIXED, (block,))


def test_eight_ranks_of_every_kind_equal_one_process() -> None:
    check(LAYOUTS["tp2-sp-pp2-dp2"], 2, MIXED)


@pytest.mark.long
@pytest.mark.parametrize("recompute", [(), tuple(Block)], ids=["none", "full"])
@pytest.mark.parametrize(("layout", "microbatches"), [case for case in product(LAYOUTS, (1, 2, 4)) if case not in SHORT])
def test_mixed_tasks_equal_one_process_everywhere(layout: str, microbatches: int, recompute: tuple[Block, ...]) -> None:
    check(LAYOUTS[layout], microbatches, MIXED, recompute)


@pytest.mark.long
@pytest.mark.parametrize("tasks", ALONE, ids=list(Task))
@pytest.mark.parametrize(("layout", "microbatches"), list(product(LAYOUTS, (1, 2, 4))))
def test_each_task_alone_equals_one_process(layout: str, microbatches: int, tasks: tuple[Task, ...]) -> None:
    check(LAYOUTS[layout], microbatches, tasks)
