"""Flat ranges as boxes, and boxes without padding."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from megatron_mplug2.checkpoint.pieces import boxes, pieces_of
from megatron_mplug2.models.weights import Weight
from tests.checkpoint.toy import Setup, Toy
from tests.ranks import run_ranks


@pytest.mark.parametrize("size", [(), (7,), (1, 5), (4, 6), (3, 1, 4), (3, 4, 2), (2, 3, 2, 2)])
def test_every_range_is_cut_into_contiguous_boxes(size: tuple[int, ...]) -> None:
    count = math.prod(size)
    numbers = torch.arange(count).view(size)
    for start in range(count + 1):
        for stop in range(start, count + 1):
            found = list(boxes(size, start, stop))
            parts = [numbers[tuple(slice(at, at + n) for at, n in zip(box.offsets, box.sizes, strict=True))].flatten() for box in found]
            assert torch.cat([torch.empty(0, dtype=torch.int64), *parts]).tolist() == list(range(start, stop))
            assert len(found) <= max(1, 2 * len(size) - 1)


def pieces_of_rank(size: tuple[int, ...], padded: tuple[int, ...], dim: int | None) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Of numbers that say where they are in the canonical tensor, -1 in padding; from three flat ranges of the rank's block."""
    toy = Toy(Setup())
    full = torch.full(padded, -1)
    full[tuple(slice(0, n) for n in size)] = torch.arange(math.prod(size)).view(size)
    param = nn.Parameter(full.float())
    weight = Weight(name="w", param=param, partition_dim=dim, full_size=size)
    flat = param.detach().view(-1)
    cuts = [0, flat.numel() // 3, flat.numel() - 1, flat.numel()]
    pieces = [piece for a, b in pairwise(cuts) for piece in pieces_of("w", weight, flat[a:b], a, toy.topology)]
    assert all(piece.tensor.untyped_storage().data_ptr() == param.untyped_storage().data_ptr() for piece in pieces), "live memory"
    return [(piece.offsets, piece.tensor.clone()) for piece in pieces]


@pytest.mark.parametrize(("size", "padded"), [((11,), (16,)), ((11, 3), (16, 3)), ((5, 2, 2), (8, 2, 2)), ((4, 3), (4, 3))])
def test_padding_is_left_out(size: tuple[int, ...], padded: tuple[int, ...]) -> None:
    expected = torch.arange(math.prod(size)).view(size)
    seen = torch.full(size, -1)
    for offsets, tensor in run_ranks(1, pieces_of_rank, size, padded, 0)[0]:
        place = tuple(slice(at, at + n) for at, n in zip(offsets, tensor.shape, strict=True))
        assert (seen[place] == -1).all()
        seen[place] = tensor.long()
    assert torch.equal(seen, expected)
