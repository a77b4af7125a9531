"""What tensor parallelism sums, against the all-reduces of a real step on two ranks."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.workload import backward_parts
from megatron_mplug2.planner.reductions import reductions
from megatron_mplug2.training.engine import make_engine
from tests.ranks import run_ranks
from tests.training import cases, record

Sizes = dict[int, int]
"""Elements of an all-reduce -> how many there are."""

LOSS = 3
"""The token losses reduce three numbers a row, [3, length, rows]; no sequence of the case is so short."""


def tensor_parallel() -> RunConfig:
    return cases.config(LayoutConfig(tensor=2))


def train(task: Task) -> Sizes:
    """All-reduces of activations, [length, rows, width], in one step of one microbatch, which needs no feature pass."""
    found: Counter[int] = Counter()
    reduce = dist.all_reduce

    def noted(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if tensor.dim() == 3 and len(tensor) != LOSS:
            found[tensor.numel()] += 1
        return reduce(tensor, *arguments, **named)

    dist.all_reduce = noted
    record.train(make_engine(tensor_parallel()), (task,))
    return dict(found)


def planned(task: Task) -> Sizes:
    config = tensor_parallel()
    shape = batch_shape(config, task, samples=config.training.microbatch, frames=cases.PHASE.frames, resolution=cases.PHASE.resolution)
    found: Counter[int] = Counter()
    backward = backward_parts(config, task)
    for unit in run_chain(config):
        made = reductions(unit, shape, config)
        found.update(made.forward)
        if backward[unit.name]:
            found.update(made.backward)
    return dict(found)


@pytest.mark.parametrize("task", Task)
def test_all_reduces_are_those_of_a_real_step(task: Task) -> None:
    assert planned(task) == run_ranks(2, train, task)[0]
