"""Rows that are a share of a question, and rows that are weighed by a reward: against a sum over rows."""

import pytest
import torch

from megatron_mplug2.config.objectives import Averaging
from megatron_mplug2.objectives.instruction_lm import instruction_lm_count, instruction_lm_loss
from tests.objectives.test_language_losses import TARGETS, VOCAB, assert_same, random_logits, row_losses

SHARES = torch.tensor([0.5, 0.3, 1.0, 1.0])
"""The third row predicts nothing, and so counts nothing."""
ADVANTAGES = torch.tensor([2.0, -1.5, 9.0, 0.0])
COUNTS = {Averaging.SUM: 0.5 + 0.3 + 1, Averaging.SAMPLE: 0.5 + 0.3 + 1, Averaging.TOKEN: 0.5 * 4 + 0.3 * 2 + 3}


@pytest.mark.parametrize("averaging", list(Averaging))
def test_shares_weigh_loss_and_count_and_advantages_the_loss(averaging: Averaging) -> None:
    logits = random_logits(5, 4)
    rows = [torch.stack(row) if row else torch.zeros(1, dtype=torch.float64) for row in row_losses(logits)]
    sums = torch.stack([row.mean() if averaging is Averaging.SAMPLE else row.sum() for row in rows])
    loss = instruction_lm_loss(logits, TARGETS, averaging, VOCAB, None, shares=SHARES)
    assert float(instruction_lm_count(TARGETS, averaging, SHARES)) == pytest.approx(COUNTS[averaging])
    assert_same(loss, (sums * SHARES).sum(), logits)
    both = instruction_lm_loss(logits, TARGETS, averaging, VOCAB, None, shares=SHARES, advantages=ADVANTAGES)
    assert_same(both, (sums * SHARES * ADVANTAGES).sum(), logits)


def test_ten_answers_are_the_mean_over_people() -> None:
    """Of seven who said one thing and three who said another: the same loss and gradient as a row for each person."""
    people = torch.tensor([0] * 7 + [1] * 3)
    logits = random_logits(5, 2)
    shares, everyone = torch.tensor([0.7, 0.3]), TARGETS[:2][people]
    shared = instruction_lm_loss(logits, TARGETS[:2], Averaging.SUM, VOCAB, None, shares=shares)
    each = instruction_lm_loss(logits[:, people], everyone, Averaging.SUM, VOCAB, None)
    counts = instruction_lm_count(TARGETS[:2], Averaging.SUM, shares), instruction_lm_count(everyone, Averaging.SUM)
    assert_same(shared / counts[0], each / counts[1], logits)
