"""What crosses a pipeline cut: every living stream in one flat tensor, since Megatron-Core differentiates only one tensor a boundary.

The first element is the tether: it makes each stage's output depend on its input, so that a gradient always flows back, also in a
step in which no stream crosses the cut (text, between two vision stages).
"""

from dataclasses import dataclass
from math import prod

import torch

from megatron_mplug2.config.schema import ModelConfig
from megatron_mplug2.models.chain import Streams, alive_at
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape, Stream, stream_shape
from megatron_mplug2.parallel.sequence import SequenceShards

TETHER = 1
"""Elements of the tether."""


@dataclass(frozen=True)
class Message:
    """The layout of what crosses one cut in one kind of step, known alike to both sides."""

    shapes: dict[Stream, tuple[int, int, int]]

    @property
    def numel(self) -> int:
        return TETHER + sum(prod(shape) for shape in self.shapes.values())

    def pack(self, streams: Streams, tether: torch.Tensor) -> torch.Tensor:
        """-> [numel]; `tether`: [1]."""
        return torch.cat([tether, *(streams[stream].reshape(-1).to(tether.dtype) for stream in self.shapes)])

    def unpack(self, flat: torch.Tensor) -> tuple[Streams, torch.Tensor]:
        """[numel] -> streams in their shapes, and the tether [1]."""
        tether, *parts = flat.split([TETHER, *(prod(shape) for shape in self.shapes.values())])
        streams = {stream: part.view(shape) for (stream, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return streams, tether


def message_at(partition: Partition, cut: int, shape: BatchShape, model: ModelConfig, sequence: SequenceShards) -> Message:
    """The message across the cut before unit `cut` of the chain."""
    alive = alive_at(partition.units, cut, shape.task)
    return Message({stream: stream_shape(stream, shape, model, sequence) for stream in alive})
