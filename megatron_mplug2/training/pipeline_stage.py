"""A stage of the chain in the shape that Megatron-Core's schedules ask for: one flat tensor in, one flat tensor or a loss out."""

from dataclasses import dataclass

import torch
from megatron.core.enums import ModelType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import nn

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Streams
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.objectives.injection import inject_loss
from megatron_mplug2.parallel.device import device, own_code
from megatron_mplug2.parallel.sequence import SequenceShards
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training.messages import Message, message_at


@dataclass(frozen=True)
class Boundaries:
    """The messages that a stage receives and sends in one kind of step."""

    received: Message
    sent: Message


class PipelineStage(nn.Module):
    """Megatron-Core calls `set_input_tensor`, then `forward`; the module that it wraps in its DistributedDataParallel."""

    model_type = ModelType.encoder_or_decoder

    def __init__(self, stage: Stage, partition: Partition, config: RunConfig, core: TransformerConfig, topology: Topology) -> None:
        super().__init__()
        self.stage = stage
        self.config = core
        self._partition, self._config, self._topology = partition, config, topology
        self.sequence = SequenceShards(topology)
        self._input: torch.Tensor | None = None

    def set_input_tensor(self, input_tensor: list[torch.Tensor | None]) -> None:
        """Called by the schedule before each forward; None on the first stage."""
        self._input = input_tensor[0]

    def boundaries(self, shape: BatchShape) -> Boundaries:
        stage = self._topology.pipeline_rank
        before, after = self._partition.cut_before(stage), self._partition.cut_after(stage)
        received, sent = (message_at(self._partition, cut, shape, self._config, self.sequence) for cut in (before, after))
        return Boundaries(received, sent)

    def forward(self, micro: Microbatch) -> torch.Tensor:
        """[numel of the message received] -> [numel of the message sent], or a scalar: this microbatch's loss on the last stage.

        Losses of an earlier stage's heads go into its message's backward. In a features-only pass, the stage that owns the
        contrastive features returns them: [2, b, d], vision then text.
        """
        with own_code():
            boundaries = self.boundaries(micro.shape)
            streams, tether = self._received(boundaries.received)
            streams = self.stage(streams, micro)
            if micro.features_only and micro.features is not None:
                return torch.stack(micro.features)
            loss = sum(micro.losses, start=tether.new_zeros((), dtype=torch.float32))
            assert isinstance(loss, torch.Tensor)
            if self._topology.last_stage:
                return loss + 0.0 * tether[0].float()
            flat = boundaries.sent.pack(streams, tether)
            return inject_loss(flat, loss) if micro.losses and torch.is_grad_enabled() else flat

    def _received(self, message: Message) -> tuple[Streams, torch.Tensor]:
        if self._input is None:
            return {}, torch.zeros(1, dtype=self.config.pipeline_dtype, device=device())
        return message.unpack(self._input)
