"""Momentum encoders: the averages over steps of what a stage's contrastive features are made with, and the queue of what they gave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from megatron_mplug2.checkpoint.contents import copies_to_load, copies_to_save, key_of
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
    """Those of a stage's weights that contrastive features are made with: of all units up to the head that a pair passes through.

    Not the temperature, which the loss uses as it is, and not a tied copy, which belongs to a head.
    """
    names = [unit.name for unit in partition.units]
    units = [unit for unit in partition.units[: names.index(CONTRAST) + 1] if not unit.flow(Task.IMAGE_TEXT).idle]
    inside = tuple(f"{unit.name}." for unit in units)
    return [weight for weight in weights if weight.saves and weight.name != LOG_TEMPERATURE and weight.name.startswith(inside)]


class Momentum:
    """Exponential averages in fp32, of all that this rank holds of its stage's weights: equal on data-parallel ranks.

    With weights in bf16 the average is that of the bf16 weights, the ones that features are made with.
    """

    def __init__(self, weights: Sequence[Weight], share: float, queue: KeyQueue | None) -> None:
        """`weights`: `feature_weights`; `share`: what an average keeps at a step; `queue`: on the stage that has the features."""
        self.weights = list(weights)
        self.queue = queue
        self._share = share
        self._averages: list[torch.Tensor] = []

    @property
    def averages(self) -> list[torch.Tensor]:
        """Of each of `weights`, in this rank's shape. They begin as the weights are when first asked for."""
        if not self._averages:
            self._averages = [weight.param.detach().float().clone() for weight in self.weights]
        return self._averages

    def begin(self) -> None:
        """Before the first update: averages begin as the weights that training begins with, wherever those were loaded from."""
        _ = self.averages

    @torch.no_grad()
    def follow(self) -> None:
        """After an update, when all weights are gathered: average = share x average + (1 - share) x weight."""
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.lerp_(weight.param.float(), 1 - self._share)

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
