"""Losses that arise in the middle of a pipeline."""

from typing import Any

import torch


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: torch.Tensor, loss: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        ctx.loss_grad = torch.as_tensor(scale, dtype=loss.dtype, device=loss.device).reshape(loss.shape)
        # An alias that is no autograd view: the schedule frees a stage's outputs, and refuses to free views.
        return stream.detach()

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> Any:
        return incoming[0], ctx.loss_grad, None


def inject_loss(stream: torch.Tensor, loss: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """`stream` unchanged; its backward also sends `scale` into the scalar `loss`.

    So the step gets the gradient of scale x loss although the schedule differentiates only what a stage sends on. The stream
    must be part of what is sent on, else the backward never comes here. `scale` is the loss scale, which the schedule gives only
    to the last stage's loss.
    """
    return _Inject.apply(stream, loss, scale)
