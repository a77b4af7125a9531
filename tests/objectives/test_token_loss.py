"""Vocabulary-parallel cross-entropy with pad rows against torch's own over the whole, unpadded vocabulary."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.data.batch import IGNORED
from megatron_mplug2.objectives.token_loss import token_losses
from tests.ranks import run_ranks

LENGTH, ROWS, PADDED = 5, 3, 16
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Tokens:
    logits: torch.Tensor
    """[L, b, padded vocabulary]; the pad rows' logits are the largest."""
    labels: torch.Tensor
    weights: torch.Tensor
    """[b, L], incoming gradient."""
    vocab_size: int
    smoothing: float = 0.0


def tokens(vocab_size: int, dtype: torch.dtype) -> Tokens:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = 3 * torch.randn(LENGTH, ROWS, PADDED, generator=generator, dtype=torch.float64)
    logits[..., vocab_size:] = 50.0
    labels = torch.randint(0, vocab_size, (ROWS, LENGTH), generator=generator)
    labels[0, 1] = labels[2, 4] = IGNORED
    labels[1, 2], labels[1, 3] = 0, vocab_size - 1
    weights = torch.randn(ROWS, LENGTH, generator=generator, dtype=torch.float64)
    return Tokens(logits.to(dtype), labels, weights, vocab_size)


def by_torch(data: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [b, L] and the gradient in all padded logits, in fp64."""
    logits = data.logits.double().clone().requires_grad_()
    flat = logits[..., : data.vocab_size].transpose(0, 1).flatten(0, 1)
    criterion = torch.nn.CrossEntropyLoss(ignore_index=IGNORED, reduction="none", label_smoothing=data.smoothing)
    losses = criterion(flat, data.labels.flatten()).reshape(ROWS, LENGTH)
    (losses * data.weights).sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad


def on_slice(data: Tokens, group: dist.ProcessGroup | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses, and the gradient in this rank's slice of the vocabulary."""
    rank, size = (0, 1) if group is None else (group.rank(), group.size())
    logits = data.logits.chunk(size, dim=-1)[rank].clone().requires_grad_()
    losses = token_losses(logits, data.labels, data.vocab_size, group, data.smoothing)
    (losses * data.weights.to(losses.dtype)).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits, data.logits.chunk(size, dim=-1)[rank]), "the caller's logits were written to"
    return losses.detach(), logits.grad


def on_rank(data: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    return on_slice(data, dist.group.WORLD)


def assert_equals_torch(parts: list[tuple[torch.Tensor, torch.Tensor]], data: Tokens) -> None:
    losses, gradient = by_torch(data)
    got = torch.cat([part[1] for part in parts], dim=-1)
    tolerance = TOLERANCE[data.logits.dtype]
    for part in parts:
        assert part[0].dtype == torch.promote_types(data.logits.dtype, torch.float32)
        torch.testing.assert_close(part[0].double(), losses, rtol=1e-6, atol=1e-6)
    assert got.dtype == data.logits.dtype
    torch.testing.assert_close(got.double(), gradient, rtol=tolerance, atol=tolerance)
    assert (got[..., data.vocab_size :] == 0).all()
    for row, position in ((0, 1), (2, 4)):
        assert losses[row, position] == 0 and (got[position, row] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [5, 8, 11, PADDED])
def test_one_process_without_process_groups(vocab_size: int, dtype: torch.dtype) -> None:
    data = tokens(vocab_size, dtype)
    assert_equals_torch([on_slice(data, None)], data)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [5, 8, 11, PADDED])
@pytest.mark.parametrize("world_size", [1, 2])
def test_tensor_parallel(world_size: int, vocab_size: int, dtype: torch.dtype) -> None:
    """At size 2 a slice has 8 rows: with a vocabulary of 5 or 8 the second rank holds nothing but pads."""
    data = tokens(vocab_size, dtype)
    assert_equals_torch(run_ranks(world_size, on_rank, data), data)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [5, 11])
def test_label_smoothing(vocab_size: int, dtype: torch.dtype) -> None:
    """On one process, and on two ranks, of which with a vocabulary of 5 the second holds nothing but pads."""
    data = replace(tokens(vocab_size, dtype), smoothing=0.1)
    parts = [on_slice(data, None)], run_ranks(2, on_rank, data)
    for ranks in parts:
        assert_equals_torch(ranks, data)


def test_nothing_asked_gives_zeros_and_a_zero_gradient() -> None:
    data = tokens(11, torch.float32)
    silent = Tokens(data.logits, torch.full_like(data.labels, IGNORED), data.weights, data.vocab_size)
    for losses, gradient in [on_slice(silent, None), *run_ranks(2, on_rank, silent)]:
        assert (losses == 0).all() and (gradient == 0).all()


def test_large_logits_stay_finite() -> None:
    data = tokens(11, torch.float32)
    losses, gradient = on_slice(Tokens(1e4 * data.logits, data.labels, data.weights, data.vocab_size), None)
    assert losses.isfinite().all() and gradient.isfinite().all()
