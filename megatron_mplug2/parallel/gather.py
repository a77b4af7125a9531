"""Gathering equal shares of rows from every rank of a group."""

import torch
import torch.distributed as dist


def gather_rows(rows: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """[n, ...] on each of the group's g ranks -> [g * n, ...] on all of them, in order of rank. Not differentiable.

    n must be equal on all ranks (a global batch is split evenly). A group of None is this process alone.
    """
    if group is None or group.size() == 1:
        return rows
    gathered = rows.new_empty((group.size() * rows.shape[0], *rows.shape[1:]))
    dist.all_gather_into_tensor(gathered, rows.contiguous(), group=group)
    return gathered
