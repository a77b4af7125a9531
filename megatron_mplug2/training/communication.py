"""A stage's messages to its neighbours in Megatron-Core's 1F1B, without the gradients that no trained weight waits for."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_mplug2.parallel.device import device
from megatron_mplug2.training.pipeline_stage import Boundaries


class CutCommunicator(P2PCommunicator):
    """Where a cut carries no gradient (`Message.differentiable`), neither of its sides sends or awaits one.

    The schedule is told of zeros then: a loss that was injected into the message still has its backward, everything else has none.
    """

    def __init__(self, group: dist.ProcessGroup, config: TransformerConfig, boundaries: Boundaries) -> None:
        super().__init__(group, config)
        self._received, self._sent = boundaries.received, boundaries.sent

    def recv_backward(self, tensor_shapes: Any, is_last_stage: bool) -> Any:
        if is_last_stage or self._sent.differentiable:
            return super().recv_backward(tensor_shapes, is_last_stage)
        return self._zeros()

    def send_backward(self, input_tensor_grads: Any, is_first_stage: bool) -> None:
        if self._received.differentiable:
            super().send_backward(input_tensor_grads, is_first_stage)

    def send_forward_recv_backward(self, output_tensors: Any, tensor_shapes: Any, is_last_stage: bool) -> Any:
        if is_last_stage or self._sent.differentiable:
            return super().send_forward_recv_backward(output_tensors, tensor_shapes, is_last_stage)
        self.send_forward(output_tensors, is_last_stage)
        return self._zeros()

    def send_backward_recv_forward(self, input_tensor_grads: Any, tensor_shapes: Any, is_first_stage: bool) -> Any:
        if is_first_stage or self._received.differentiable:
            return super().send_backward_recv_forward(input_tensor_grads, tensor_shapes, is_first_stage)
        return self.recv_forward(tensor_shapes, is_first_stage)

    def _zeros(self) -> list[torch.Tensor]:
        """The gradient of the message sent; one element of memory."""
        return [torch.zeros(1, dtype=self.config.pipeline_dtype, device=device()).expand(self._sent.numel)]
