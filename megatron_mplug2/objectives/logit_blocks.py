"""The two sweeps of VLC over b x chunk blocks of the similarity matrix. One block is alive at a time, and every step on it is in place.

What would need a second block beside it is done by another product instead: a mask of positives, or one direction's softmax, is multiplied
with the features by itself. Products are cheap here: a block of 256 x 4,096 is nothing beside an encoder.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_mplug2.objectives.ids import equal_ids


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is summed up over all B columns of this rank's rows of S (or of S'), each [b]."""

    log_sum_exp: torch.Tensor
    positive_sum: torch.Tensor
    """Sum of the logits of the positives."""
    positives: torch.Tensor
    """Number of positives, the sample itself among them."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of S (or of S'): the global batch's other modality."""

    features: torch.Tensor
    """[B, d]."""
    ids: torch.Tensor
    """[B, 2]."""
    log_sum_exp: torch.Tensor
    """[B], of each column in its own direction: over the rows."""
    target: torch.Tensor
    """[B], 1 / number of positives."""


def row_statistics(scaled: torch.Tensor, columns: torch.Tensor, ids: torch.Tensor, all_ids: torch.Tensor, chunk: int) -> Rows:
    """First sweep. `scaled`: [b, d] features over tau; `columns`: [B, d]."""
    highest = scaled.new_full(scaled.shape[:1], -math.inf)
    total, positive_sum, positives = (torch.zeros_like(highest) for _ in range(3))
    for place, block in _blocks(scaled, len(columns), chunk):
        features = columns[place]
        block.copy_(equal_ids(ids, all_ids[place]))
        positives += block.sum(dim=1)
        positive_sum += (scaled * (block @ features)).sum(dim=1)
        torch.mm(scaled, features.T, out=block)
        maximum = torch.maximum(highest, block.amax(dim=1))
        total *= torch.exp(highest - maximum)
        total += block.sub_(maximum[:, None]).exp_().sum(dim=1)
        highest = maximum
    return Rows(log_sum_exp=highest + total.log(), positive_sum=positive_sum, positives=positives)


def weighted_columns(scaled: torch.Tensor, ids: torch.Tensor, rows: Rows, columns: Columns, chunk: int) -> torch.Tensor:
    """Second sweep: [b, d], the columns' features summed with the weights 2B dloss/dS, which both directions' softmaxes give."""
    total = torch.zeros_like(scaled)
    row_lse, row_target = rows.log_sum_exp[:, None], 1 / rows.positives[:, None]
    for place, block in _blocks(scaled, len(columns.features), chunk):
        features = columns.features[place]
        for log_sum_exp in (row_lse, columns.log_sum_exp[place]):
            torch.mm(scaled, features.T, out=block)
            total.addmm_(block.sub_(log_sum_exp).exp_(), features)
        block.copy_(equal_ids(ids, columns.ids[place]))
        total -= row_target * (block @ features)
        total.addmm_(block.mul_(columns.target[place]), features, alpha=-1)
    return total


def _blocks(scaled: torch.Tensor, columns: int, chunk: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Ranges of columns, each with a [b, width] block to write into: always the same memory."""
    rows = len(scaled)
    memory = scaled.new_empty(rows * min(chunk, columns))
    for start in range(0, columns, chunk):
        width = min(chunk, columns - start)
        yield slice(start, start + width), memory[: rows * width].view(rows, width)
