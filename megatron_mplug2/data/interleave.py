"""The order of a stream of several datasets: each has its own order and epochs, and they take turns by quotas."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from megatron_mplug2.config.data import DatasetConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.sampler import Draw, Int64s, Order, Sampler
from megatron_mplug2.errors import UserError

WEIGHT_PERIOD = 1 << 20
"""Samples over which mixing weights are kept exactly, to one sample a dataset."""
LONGEST_PERIOD = (1 << 32) - 1
"""So that a product of two places fits 64 bits."""


class Quotas:
    """Deals positions to datasets: in each period of `sum(quotas)` positions, dataset i gets `quotas[i]`, as evenly spaced as can be.

    The first dataset takes its quota at even distances; the others share the positions that are left in the same way. So a position's
    dataset, and its place among that dataset's positions, need a division for each dataset and no table.
    """

    def __init__(self, quotas: Sequence[int]) -> None:
        self._quotas = np.array(quotas, dtype=np.uint64)
        self._period = sum(quotas)
        if min(quotas) < 1 or self._period > LONGEST_PERIOD:
            raise ValueError(f"quotas {list(quotas)} are not positive or more than {LONGEST_PERIOD} together")

    def at(self, positions: Int64s) -> tuple[Int64s, Int64s]:
        """Numbers of the datasets at positions >= 0, and the positions in those datasets' own orders."""
        periods, places = np.divmod(positions.astype(np.uint64), np.uint64(self._period))
        numbers = np.full(positions.shape, len(self._quotas) - 1)
        own, left, free = places.copy(), np.uint64(self._period), np.ones(positions.shape, dtype=bool)
        for number, quota in enumerate(self._quotas[:-1]):
            before = own * quota // left
            taken = free & ((own + np.uint64(1)) * quota // left > before)
            numbers[taken] = number
            own[taken] = before[taken]
            free &= ~taken
            own[free] -= before[free]
            left -= quota
        return numbers, (own + periods * self._quotas[numbers]).astype(np.int64)


class Interleaved:
    """The order of several datasets that follow one another in a stream's manifest."""

    def __init__(self, orders: Sequence[Sampler], quotas: Sequence[int]) -> None:
        self._orders = tuple(orders)
        self._quotas = Quotas(quotas)
        self._firsts = (0, *accumulate(order.size for order in orders))
        self.size = self._firsts[-1]

    def at(self, positions: Int64s) -> Draw:
        numbers, own = self._quotas.at(positions)
        epochs, indices = np.empty_like(own), np.empty_like(own)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            drawn = self._orders[number].at(own[here])
            epochs[here], indices[here] = drawn.epochs, self._firsts[number] + drawn.indices
        return Draw(epochs=epochs, indices=indices)

    def dataset(self, index: int) -> range:
        end = next(end for end in self._firsts if index < end)
        return range(self._firsts[self._firsts.index(end) - 1], end)


def training_order(*, seed: int, task: Task, datasets: Sequence[DatasetConfig], sizes: Sequence[int]) -> Order:
    """The order of a stream's datasets, which have `sizes` samples. Raises UserError for an empty one, and for too long an epoch."""
    for dataset, size in zip(datasets, sizes, strict=True):
        if not size:
            raise UserError(f"{dataset.folder} holds no samples: look into report.json there, or take it from data.train.{task}")
    orders = [Sampler(seed=seed, task=task, size=size, number=number) for number, size in enumerate(sizes)]
    if len(orders) == 1:
        return orders[0]
    quotas = _quotas(datasets, sizes)
    if sum(quotas) > LONGEST_PERIOD:
        raise UserError(
            f"data.train.{task} has {sum(quotas):,} samples an epoch, more than {LONGEST_PERIOD:,}: lower its repeat, or give weights"
        )
    return Interleaved(orders, quotas)


def _quotas(datasets: Sequence[DatasetConfig], sizes: Sequence[int]) -> list[int]:
    weights = [dataset.weight for dataset in datasets if dataset.weight is not None]
    if weights:
        return [max(round(weight / sum(weights) * WEIGHT_PERIOD), 1) for weight in weights]
    return [dataset.repeat * size for dataset, size in zip(datasets, sizes, strict=True)]
