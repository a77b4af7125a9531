"""MLM and instruction LM from logits, against one token at a time."""

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.config.objectives import Averaging
from megatron_mplug2.data.batch import IGNORED, PAD
from megatron_mplug2.objectives.instruction_lm import instruction_lm_count, instruction_lm_loss
from megatron_mplug2.objectives.masked_lm import masked_lm_count, masked_lm_loss

VOCAB, PADDED, CLS, SEP = 11, 16, 9, 10
TARGETS = torch.tensor(
    [
        [CLS, 3, 4, 5, SEP],
        [CLS, 7, SEP, PAD, PAD],
        [CLS, PAD, PAD, PAD, PAD],
        [CLS, 4, 4, SEP, PAD],
    ]
)


def random_logits(length: int, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(length, rows, PADDED, generator=generator, dtype=torch.float64).requires_grad_()


def token_loss(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:VOCAB], token)


def assert_same(got: torch.Tensor, expected: torch.Tensor, logits: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (got, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[1].abs().max() > 0


def test_masked_lm_sums_over_masked_positions() -> None:
    logits, labels = random_logits(5, 3), torch.full((3, 5), IGNORED)
    labels[0, 2], labels[0, 4], labels[2, 0] = 4, 0, 10
    loss = masked_lm_loss(logits, labels, VOCAB, None)
    expected = sum(token_loss(logits[position, row], labels[row, position]) for row, position in ((0, 2), (0, 4), (2, 0)))
    assert masked_lm_count(labels) == 3
    assert isinstance(expected, torch.Tensor)
    assert_same(loss, expected, logits)


def row_losses(logits: torch.Tensor) -> list[list[torch.Tensor]]:
    """Of each row, the losses of the tokens after [CLS]."""
    return [
        [token_loss(logits[position - 1, row], token) for position, token in enumerate(tokens) if position and token != PAD]
        for row, tokens in enumerate(TARGETS)
    ]


def test_instruction_lm_over_tokens() -> None:
    logits = random_logits(5, 4)
    loss = instruction_lm_loss(logits, TARGETS, Averaging.TOKEN, VOCAB, None)
    assert instruction_lm_count(TARGETS, Averaging.TOKEN) == 4 + 2 + 0 + 3
    assert_same(loss, torch.stack([token for row in row_losses(logits) for token in row]).sum(), logits)


def test_instruction_lm_over_samples() -> None:
    logits = random_logits(5, 4)
    loss = instruction_lm_loss(logits, TARGETS, Averaging.SAMPLE, VOCAB, None)
    assert instruction_lm_count(TARGETS, Averaging.SAMPLE) == 3
    assert_same(loss, torch.stack([torch.stack(row).mean() for row in row_losses(logits) if row]).sum(), logits)


@pytest.mark.parametrize("averaging", list(Averaging))
def test_instruction_lm_with_nothing_to_predict(averaging: Averaging) -> None:
    logits = random_logits(5, 2)
    loss = instruction_lm_loss(logits, TARGETS[[2, 2]], averaging, VOCAB, None)
    loss.backward()
    assert loss == 0 and instruction_lm_count(TARGETS[[2, 2]], averaging) == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_masked_lm_with_nothing_masked() -> None:
    logits, labels = random_logits(5, 2), torch.full((2, 5), IGNORED)
    loss = masked_lm_loss(logits, labels, VOCAB, None)
    loss.backward()
    assert loss == 0 and masked_lm_count(labels) == 0
    assert logits.grad is not None and (logits.grad == 0).all()
