import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.evaluation.gather import gather_lists, gather_samples
from tests.ranks import run_ranks

OWN: tuple[list[int], ...] = ([4, 1, 0], [], [2, 3])
"""Samples of three ranks, as uneven as can be."""


def gathered() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    group, own = dist.group.WORLD, OWN[dist.get_rank()]
    assert group is not None
    indices = torch.tensor(own, dtype=torch.int64)
    rows, found = gather_samples(indices[:, None] * torch.tensor([10.0, 100.0]), indices, group)
    return rows, found, gather_lists([str(index) for index in own], group)


def test_samples_of_all_ranks_come_in_order() -> None:
    for rows, found, names in run_ranks(3, gathered):
        assert found.tolist() == [0, 1, 2, 3, 4]
        assert torch.equal(rows, torch.arange(5)[:, None] * torch.tensor([10.0, 100.0]))
        assert names == ["4", "1", "0", "2", "3"]


def shared_sample() -> None:
    assert dist.group.WORLD is not None
    indices = torch.tensor([7, dist.get_rank()])
    gather_samples(indices[:, None].float(), indices, dist.group.WORLD)


def test_a_sample_on_two_ranks_is_an_error() -> None:
    with pytest.raises(AssertionError, match="evaluated on two data-parallel ranks"):
        run_ranks(2, shared_sample)
