"""Momentum encoders: the averages over steps of what a stage's contrastive features are made with, and the queue of what they gave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from torch import nn

from megatron_mplug2.checkpoint.contents import copies_to_load, copies_to_save, key_of
from megatron_mplug2.checkpoint.optimizer_state import is_sharded, main_weights
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.config.schema import Task
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.models.mplug2 import CONTRAST
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.objectives.key_queue import KeyQueue
from megatron_mplug2.parallel.topology import Topology

MOMENTUM, QUEUE = "momentum", "queue"
"""Kinds of tensors in a checkpoint."""


def feature_weights(weights: Sequence[Weight], partition: Partition) -> list[Weight]:
    """Those of a stage's trained weights that contrastive features are made with: of all units up to the head that a pair passes through.

    Not the temperature, which the loss uses as it is, not a tied copy, which belongs to a head, and not a frozen weight, which is its own
    average.
    """
    names = [unit.name for unit in partition.units]
    units = [unit for unit in partition.units[: names.index(CONTRAST) + 1] if not unit.flow(Task.IMAGE_TEXT).idle]
    inside = tuple(f"{unit.name}." for unit in units)
    trained = (weight for weight in weights if weight.saves and weight.param.requires_grad and weight.name != LOG_TEMPERATURE)
    return [weight for weight in trained if weight.name.startswith(inside)]


class Mains:
    """The fp32 copies of weights of lower precision: whole on this rank, or with ZeRO-1 a range of each on some data-parallel rank."""

    def __init__(self, optimizer: MegatronOptimizer, topology: Topology) -> None:
        self._of = {entry.param: entry for entry in main_weights(optimizer) if entry.copied}
        self._group = topology.data_group if is_sharded(optimizer) and topology.data_size > 1 else None

    def move(self, average: torch.Tensor, param: nn.Parameter, part: float) -> None:
        """Moves what this rank has a copy of, and leaves zeros elsewhere; `average`: the flattened block."""
        main = self._of.get(param)
        start, stop = (main.start, main.start + main.main.numel()) if main is not None else (0, 0)
        average[:start].zero_()
        average[stop:].zero_()
        if main is not None:
            average[start:stop].lerp_(main.main.view(-1), part)

    def exchange(self, average: torch.Tensor) -> list[dist.Work]:
        """Begins to put the ranks' ranges together, in place. Nothing where each has everything."""
        work = dist.all_reduce(average, group=self._group, async_op=True) if self._group is not None else None
        return [work] if work is not None else []


class Momentum:
    """Exponential averages in fp32, of all that this rank holds of its stage's weights: equal on data-parallel ranks.

    With weights in bf16 it is their fp32 copies that are averaged, the numbers that the optimizer updates: at a share of 0.995 a weight may
    take many steps to the next number of bf16, and the average would see none of them.
    """

    def __init__(self, weights: Sequence[Weight], share: float, queue: KeyQueue | None, mains: Mains) -> None:
        """`weights`: `feature_weights`; `share`: what an average keeps at a step; `queue`: on the stage that has the features."""
        self.weights = list(weights)
        self.queue = queue
        self._share, self._mains = share, mains
        self._averages: list[torch.Tensor] = []

    @property
    def averages(self) -> list[torch.Tensor]:
        """Of each of `weights`, in this rank's shape. They begin as the weights are when first asked for, on all ranks of a stage alike."""
        if not self._averages:
            self._averages = self._zeros()
            self._approach(1.0)
        return self._averages

    def begin(self) -> None:
        """Before the first update: averages begin as the weights that training begins with, wherever those were loaded from."""
        _ = self.averages

    def follow(self) -> None:
        """After an update, when all weights are gathered: average = share x average + (1 - share) x weight."""
        _ = self.averages
        self._approach(1 - self._share)

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros_like(weight.param, dtype=torch.float32) for weight in self.weights]

    @torch.no_grad()
    def _approach(self, part: float) -> None:
        """Moves each average that part of the way to its weight. Collective over data-parallel ranks with ZeRO-1 in bf16."""
        exchanged = []
        for average, weight in zip(self._averages, self.weights, strict=True):
            if weight.param.dtype == average.dtype:
                average.lerp_(weight.param, part)
                continue
            self._mains.move(average.view(-1), weight.param, part)
            exchanged += self._mains.exchange(average)
        for work in exchanged:
            work.wait()

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Around a forward pass with the averages. They stand in the weights' place, so nothing is copied where weights are fp32."""
        current = [weight.param.data for weight in self.weights]
        try:
            for weight, average in zip(self.weights, self.averages, strict=True):
                weight.param.data = average.to(weight.param.dtype)
            yield
        finally:
            for weight, data in zip(self.weights, current, strict=True):
                weight.param.data = data

    def pieces_to_save(self, topology: Topology) -> list[Piece]:
        """What this rank writes into a checkpoint; of the queue its share of the rows, which the data-parallel ranks divide."""
        pieces = copies_to_save(MOMENTUM, self.weights, self.averages, topology)
        if self.queue is not None and topology.tensor_rank == 0:
            share = self.queue.size // topology.data_size  # whole, since a global batch is
            pieces += _queue_pieces(self.queue, share * topology.data_rank, share * (topology.data_rank + 1))
            pieces += [_count_piece(self.queue)] if topology.data_rank == 0 else []
        return pieces

    def pieces_to_load(self, topology: Topology) -> list[Piece]:
        """What this rank fills: all that it holds."""
        self._averages = self._zeros()
        pieces = copies_to_load(MOMENTUM, self.weights, self.averages, topology)
        if self.queue is not None:
            pieces += [*_queue_pieces(self.queue, 0, self.queue.size), _count_piece(self.queue)]
        return pieces


def _queue_pieces(queue: KeyQueue, start: int, stop: int) -> list[Piece]:
    memory = queue.memory
    return [
        Piece(key=key_of(QUEUE, name), full_size=tuple(tensor.shape), offsets=(start, 0), tensor=tensor[start:stop])
        for name, tensor in (("vision", memory.vision), ("text", memory.text), ("ids", memory.ids))
    ]


def _count_piece(queue: KeyQueue) -> Piece:
    return Piece(key=key_of(QUEUE, "enqueued"), full_size=(), offsets=(), tensor=queue.enqueued)
