"""Live boxes of canonical tensors: what a rank writes into a checkpoint and reads from one, whatever the layout.

A rank holds a block of a weight (tensor parallel), and with ZeRO-1 a flat range of that block. Cut into boxes, each piece has a place in
the unsharded tensor, so no rank ever gathers a whole one, and any layout can read what any other wrote.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box of a canonical tensor and the memory of this rank that holds it."""

    key: str
    """Name of the tensor in the checkpoint."""
    full_size: tuple[int, ...]
    """Unsharded size without padding."""
    offsets: tuple[int, ...]
    """Where the box begins in the unsharded tensor."""
    tensor: torch.Tensor
    """A view of live memory, of the box's size."""


@dataclass(frozen=True, kw_only=True)
class Box:
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def boxes(size: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Cuts the elements [start, stop) of a tensor, counted in row-major order, into boxes.

    In order, and each contiguous in memory: at most 2 * dimensions - 1 of them, the whole tensor as one.
    """
    if start >= stop:
        return
    if len(size) <= 1:
        yield Box(offsets=(start,)[: len(size)], sizes=(stop - start,)[: len(size)])
        return
    row = math.prod(size[1:])
    head_stop = min(stop, -(-start // row) * row)
    body_stop = max(head_stop, stop // row * row)
    yield from _within_row(size, start, head_stop)
    if head_stop < body_stop:
        first, count = head_stop // row, (body_stop - head_stop) // row
        yield Box(offsets=(first, *(0 for _ in size[1:])), sizes=(count, *size[1:]))
    yield from _within_row(size, body_stop, stop)


def _within_row(size: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Boxes of a range that lies inside one index of the first dimension."""
    row = math.prod(size[1:])
    index = start // row
    for box in boxes(size[1:], start - index * row, stop - index * row):
        yield Box(offsets=(index, *box.offsets), sizes=(1, *box.sizes))


def pieces_of(key: str, weight: Weight, values: torch.Tensor, start: int, topology: Topology) -> Iterator[Piece]:
    """The pieces of a flat range of this rank's block of a weight, or of an optimizer state of the weight's size.

    Args:
        values: [n], elements [start, start + n) of the block in row-major order. Pieces are views of it; padding is left out.
    """
    block = weight.block
    origin = [0] * len(block)
    if weight.partition_dim is not None:
        origin[weight.partition_dim] = block[weight.partition_dim] * topology.tensor_rank
    position = 0
    for box in boxes(block, start, start + values.numel()):
        count = math.prod(box.sizes)
        offsets = tuple(at + inside for at, inside in zip(origin, box.offsets, strict=True))
        tensor = _without_padding(values[position : position + count].view(box.sizes), offsets, weight.full_size)
        position += count
        if tensor is not None:
            yield Piece(key=key, full_size=weight.full_size, offsets=offsets, tensor=tensor)


def _without_padding(tensor: torch.Tensor, offsets: tuple[int, ...], full_size: tuple[int, ...]) -> torch.Tensor | None:
    """The part of a box that lies inside the canonical tensor; None where nothing does."""
    for dim, (offset, full) in enumerate(zip(offsets, full_size, strict=True)):
        if offset >= full:
            return None
        tensor = tensor.narrow(dim, 0, min(tensor.shape[dim], full - offset))
    return tensor
