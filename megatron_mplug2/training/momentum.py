"""Momentum encoders: the averages over steps of what a stage's contrastive features are made with, and the queue of what they gave."""

from collections.abc import Sequence

from megatron_mplug2.checkpoint.contents import key_of
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.models.encoder_weights import encoder_weights
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.objectives.key_queue import KeyQueue
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training.averages import Averages, Mains

MOMENTUM, QUEUE = "momentum", "queue"
"""Kinds of tensors in a checkpoint."""


def feature_weights(weights: Sequence[Weight], partition: Partition) -> list[Weight]:
    """Those of a stage's weights that contrastive features are made with and that change: a frozen weight is its own average."""
    return encoder_weights([weight for weight in weights if weight.param.requires_grad], partition)


class Momentum(Averages):
    """The averages of `feature_weights`, and on the stage that has the features their queue."""

    def __init__(self, weights: Sequence[Weight], share: float, queue: KeyQueue | None, mains: Mains) -> None:
        super().__init__(MOMENTUM, weights, share, mains)
        self.queue = queue

    def pieces_to_save(self, topology: Topology) -> list[Piece]:
        """What this rank writes into a checkpoint; of the queue its share of the rows, which the data-parallel ranks divide."""
        pieces = super().pieces_to_save(topology)
        if self.queue is not None and topology.tensor_rank == 0:
            share = self.queue.size // topology.data_size  # whole, since a global batch is
            pieces += _queue_pieces(self.queue, share * topology.data_rank, share * (topology.data_rank + 1))
            pieces += [_count_piece(self.queue)] if topology.data_rank == 0 else []
        return pieces

    def pieces_to_load(self, topology: Topology) -> list[Piece]:
        pieces = super().pieces_to_load(topology)
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
