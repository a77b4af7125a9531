"""What data-parallel ranks found out about their own samples, put together: each sample once, in the order of the split."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist

from megatron_mplug2.parallel.gather import gather_rows

T = TypeVar("T")


class OfSample(Protocol):
    @property
    def index(self) -> int:
        """Sample in the manifest of the split."""


Found = TypeVar("Found", bound=OfSample)


def gather_samples(rows: torch.Tensor, indices: torch.Tensor, group: dist.ProcessGroup) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, ...] of the samples `indices` [n] int64 of each rank -> (rows [N, ...], indices [N]) of all, by rising index, on every rank.

    Ranks may hold different numbers of samples, none too. Raises RuntimeError where two ranks hold the same sample.
    """
    most = torch.tensor(len(indices), device=rows.device)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    padding = int(most) - len(indices)
    all_rows = gather_rows(torch.cat([rows, rows.new_zeros(padding, *rows.shape[1:])]), group)
    all_indices = gather_rows(torch.cat([indices.to(rows.device), indices.new_full((padding,), -1, device=rows.device)]), group)
    order = all_indices.argsort()[int((all_indices < 0).sum()) :]
    found = all_indices[order]
    if bool((found[1:] == found[:-1]).any()):
        raise RuntimeError("a sample was evaluated on two data-parallel ranks")
    return all_rows.index_select(0, order), found


def gather_lists(own: Sequence[T], group: dist.ProcessGroup) -> list[T]:
    """Every rank's items, rank by rank, on every rank."""
    everyone: list[Sequence[T] | None] = [None] * group.size()
    dist.all_gather_object(everyone, own, group=group)
    return [item for part in everyone if part is not None for item in part]


def gather_in_order(own: Sequence[Found], group: dist.ProcessGroup) -> tuple[Found, ...]:
    """Every rank's findings by rising sample, those of a sample as they were found; on every rank."""
    return tuple(sorted(gather_lists(own, group), key=lambda one: one.index))
