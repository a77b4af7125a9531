"""Losses that arise in the middle of a pipeline."""

from typing import Any

import torch


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        ctx.loss_grad = torch.ones_like(loss)
        # An alias that is no autograd view: the schedule frees a stage's outputs, and refuses to free views.
        return stream.detach()

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> Any:
        return incoming[0], ctx.loss_grad


def inject_loss(stream: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """`stream` unchanged; its backward also starts the backward of the scalar `loss`.

    So the step gets the loss's gradient although the schedule differentiates only what a stage sends on. The stream must be part
    of what is sent on, else the backward never comes here.
    """
    return _Inject.apply(stream, loss)
