"""What crosses a pipeline cut: every living stream in one flat tensor, since Megatron-Core differentiates only one tensor a boundary.

The first element is the tether: a message is never empty, also in a step in which no stream crosses the cut (text, between two vision
stages), and each stage's output depends on its input, so that a gradient flows back wherever one is awaited. None is where no trained
weight has gone into what crosses: both sides know it from the config.
"""

from dataclasses import dataclass
from math import prod

import torch

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Streams, alive_at, differentiable_at
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape, Stream, stream_shape
from megatron_mplug2.parallel.sequence import SequenceShards

TETHER = 1
"""Elements of the tether."""


@dataclass(frozen=True)
class Message:
    """The layout of what crosses one cut in one kind of step, known alike to both sides."""

    shapes: dict[Stream, tuple[int, int, int]]
    differentiable: frozenset[Stream]
    """Those for which a gradient comes back; that of the others is zero, or where there are none no gradient is sent at all."""

    @property
    def numel(self) -> int:
        return TETHER + sum(prod(shape) for shape in self.shapes.values())

    def pack(self, streams: Streams, tether: torch.Tensor) -> torch.Tensor:
        """-> [numel]; `tether`: [1]."""
        return torch.cat([tether, *(streams[stream].reshape(-1).to(tether.dtype) for stream in self.shapes)])

    def unpack(self, flat: torch.Tensor) -> tuple[Streams, torch.Tensor]:
        """[numel] -> streams in their shapes, and the tether [1]. What needs no gradient is cut off from `flat`."""
        tether, *parts = (flat if self.differentiable else flat.detach()).split([TETHER, *map(prod, self.shapes.values())])
        streams = {
            stream: (part if stream in self.differentiable else part.detach()).view(shape)
            for (stream, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return streams, tether


def message_at(partition: Partition, cut: int, shape: BatchShape, config: RunConfig, sequence: SequenceShards) -> Message:
    """The message across the cut before unit `cut` of the chain."""
    alive = alive_at(partition.units, cut, shape.task)
    return Message(
        shapes={stream: stream_shape(stream, shape, config.model, sequence) for stream in alive},
        differentiable=differentiable_at(partition.units, cut, shape.task, config.training.frozen),
    )
