"""A loss in the middle of a pipeline gets its gradient through what is sent on."""

import torch
from megatron.core.pipeline_parallel.schedules import custom_backward, deallocate_output_tensor

from megatron_mplug2.objectives.injection import inject_loss


def middle(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a stage sends on, and a loss that arises there."""
    hidden = torch.tanh(x @ weight)
    return hidden * 2, (hidden**3).sum()


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, incoming = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (3, 3), (4, 3)))
    return x, weight.requires_grad_(), incoming


def test_adds_the_gradient_of_the_loss() -> None:
    x, weight, incoming = tensors()
    stream, loss = middle(x, weight)
    sent = inject_loss(stream, loss)
    assert torch.equal(sent, stream)
    (got,) = torch.autograd.grad(sent, weight, incoming)
    stream, loss = middle(x, weight)
    (wanted,) = torch.autograd.grad((stream * incoming).sum() + loss, weight)
    torch.testing.assert_close(got, wanted)


def test_several_losses_in_a_row() -> None:
    x, weight, incoming = tensors()
    stream, loss = middle(x, weight)
    sent = inject_loss(inject_loss(stream, 2 * loss), 3 * (weight**2).sum())
    (got,) = torch.autograd.grad(sent, weight, incoming)
    stream, loss = middle(x, weight)
    (wanted,) = torch.autograd.grad((stream * incoming).sum() + 2 * loss + 3 * (weight**2).sum(), weight)
    torch.testing.assert_close(got, wanted)


def test_stream_without_a_gradient_still_carries_the_loss() -> None:
    _, weight, incoming = tensors()
    sent = inject_loss(incoming, (weight**2).sum())
    (got,) = torch.autograd.grad(sent, weight, incoming)
    torch.testing.assert_close(got, 2 * weight)


def test_the_schedule_may_free_what_is_sent() -> None:
    """Megatron-Core frees a stage's output after sending it, which it refuses for views, and differentiates it afterwards."""
    x, weight, incoming = tensors()
    stream, loss = middle(x, weight)
    sent = inject_loss(stream, loss)
    (wanted,) = torch.autograd.grad(sent, weight, incoming, retain_graph=True)
    deallocate_output_tensor(sent, deallocate_pipeline_outputs=True)
    assert sent.numel() == 1
    custom_backward(sent, incoming)
    torch.testing.assert_close(weight.grad, wanted)
