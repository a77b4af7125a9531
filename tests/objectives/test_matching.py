"""VLM's loss against one pair at a time."""

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.objectives.matching import matching_loss


def pairs(samples: int) -> torch.Tensor:
    return torch.randn(3 * samples, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_sums_positives_and_valid_negatives() -> None:
    logits, valid = pairs(4).requires_grad_(), torch.tensor([True, False, True, True])
    loss = matching_loss(logits, valid)
    counted = [(row, 1) for row in range(4)] + [(block + row, 0) for block in (4, 8) for row in (0, 2, 3)]
    expected = sum(F.cross_entropy(logits[row], torch.tensor(label)) for row, label in counted)
    torch.testing.assert_close(loss, expected)
    (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, logits)  # type: ignore[arg-type]
    torch.testing.assert_close(got, wanted)
    assert (got[[5, 9]] == 0).all()


def test_rows_without_a_negative_have_no_influence() -> None:
    logits, valid = pairs(2), torch.tensor([False, True])
    other = logits.clone()
    other[[2, 4]] = torch.tensor([300.0, -300.0], dtype=torch.float64)
    assert torch.equal(matching_loss(logits, valid), matching_loss(other, valid))


def test_no_sample_has_a_negative() -> None:
    loss = matching_loss(pairs(3), torch.zeros(3, dtype=torch.bool))
    assert loss.item() == pytest.approx(F.cross_entropy(pairs(3)[:3], torch.ones(3, dtype=torch.int64), reduction="sum").item())


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits, valid = pairs(64).bfloat16(), torch.ones(64, dtype=torch.bool)
    loss = matching_loss(logits, valid)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, matching_loss(logits.float(), valid))
