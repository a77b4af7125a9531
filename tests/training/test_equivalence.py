"""Every layout against one process with one batch: losses, gradient norm, gradients, negatives, and weights after each step.

Tolerances are for fp32, where sums in another order differ in the last bits: a few units in the last place of each figure.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product

import pytest
import torch

from megatron_mplug2.config.schema import LayoutConfig, Recompute, Task
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.record import Record

LOSS = 2e-6
"""Absolute; losses are about 1 to 5."""
NORM = 1e-6
"""Relative."""
GRADIENT = 5e-7
"""Largest element's difference, relative to the norm of all gradients."""
WEIGHT = 2e-6
"""Absolute; weights are about 0.1 to 1 and move by 1e-2 a step."""

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


def check(layout: LayoutConfig, microbatches: int, tasks: tuple[Task, ...], recompute: Recompute = Recompute.NONE) -> None:
    config = cases.config(layout, microbatch=cases.GLOBAL_BATCH // (microbatches * layout.data), recompute=recompute)
    ranks = run_ranks(layout.world_size, record.run, config, tasks)
    wanted = expected(tasks)
    for step in range(len(tasks)):
        _compare_step(wanted, ranks, step)
    first, last = wanted.steps[0].weights, wanted.steps[-1].weights
    moved = [float((last[name] - first[name]).abs().max()) for name in first]
    assert sum(change > 1e-3 for change in moved) > len(moved) / 2, "the case doesn't train"


def _compare_step(wanted: Record, ranks: Sequence[Record], step: int) -> None:
    plain = wanted.steps[step]
    for rank in ranks:
        assert rank.steps[step].losses == pytest.approx(plain.losses, abs=LOSS)
        assert rank.steps[step].grad_norm == pytest.approx(plain.grad_norm, rel=NORM)
    gradients, weights = (record.merge(ranks, step, kind) for kind in ("gradients", "weights"))
    assert gradients.keys() == weights.keys() == plain.gradients.keys()
    for name, gradient in gradients.items():
        difference = float((gradient - plain.gradients[name]).abs().max()) / plain.grad_norm
        assert difference <= GRADIENT, f"gradient of {name} at step {step}: {difference:.1e}"
        difference = float((weights[name] - plain.weights[name]).abs().max())
        assert difference <= WEIGHT, f"{name} after step {step}: {difference:.1e}"
    if plain.negatives is not None:
        for rank in ranks:
            _compare_negatives(plain.negatives, rank, ranks, step)


def _compare_negatives(plain: torch.Tensor, rank: Record, ranks: Sequence[Record], step: int) -> None:
    """Rows within a microbatch plus the microbatch's first row are rows of the global batch."""
    drawn = rank.steps[step].negatives
    assert drawn is not None
    data_size, samples = 1 + max(other.coordinates[1] for other in ranks), drawn.shape[-1]
    for number, rows in enumerate(drawn):
        start = (number * data_size + rank.coordinates[1]) * samples
        assert torch.equal(torch.where(rows >= 0, rows + start, -1), plain[:, start : start + samples])


@pytest.mark.parametrize(("layout", "microbatches"), SHORT)
def test_mixed_tasks_equal_one_process(layout: str, microbatches: int) -> None:
    check(LAYOUTS[layout], microbatches, MIXED)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_one_rank_equals_one_process_with_and_without_recompute(microbatches: int) -> None:
    check(LayoutConfig(), microbatches, MIXED, Recompute.FULL)


def test_eight_ranks_of_every_kind_equal_one_process() -> None:
    check(LAYOUTS["tp2-sp-pp2-dp2"], 2, MIXED)


@pytest.mark.long
@pytest.mark.parametrize("recompute", Recompute)
@pytest.mark.parametrize(("layout", "microbatches"), [case for case in product(LAYOUTS, (1, 2, 4)) if case not in SHORT])
def test_mixed_tasks_equal_one_process_everywhere(layout: str, microbatches: int, recompute: Recompute) -> None:
    check(LAYOUTS[layout], microbatches, MIXED, recompute)


@pytest.mark.long
@pytest.mark.parametrize("tasks", ALONE, ids=list(Task))
@pytest.mark.parametrize(("layout", "microbatches"), list(product(LAYOUTS, (1, 2, 4))))
def test_each_task_alone_equals_one_process(layout: str, microbatches: int, tasks: tuple[Task, ...]) -> None:
    check(LAYOUTS[layout], microbatches, tasks)
