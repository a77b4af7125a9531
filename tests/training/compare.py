"""Whether all ranks' records of a step are the plain reference's.

Tolerances are for fp32, where sums in another order differ in the last bits: a few units in the last place of each figure.
"""

from collections.abc import Sequence

import pytest
import torch

from tests.training import record
from tests.training.record import Record, StepRecord

LOSS = 2e-6
"""Absolute; losses are about 1 to 5."""
NORM = 1e-6
"""Relative."""
GRADIENT = 5e-7
"""Largest element's difference, relative to the norm of all gradients."""
WEIGHT = 2e-6
"""Absolute; weights are about 0.1 to 1 and move by 1e-2 a step."""


def compare_step(plain: StepRecord, ranks: Sequence[Record], step: int) -> None:
    """Raises AssertionError where the ranks' records of their step number `step` differ from the plain one."""
    for rank in ranks:
        assert rank.steps[step].losses == pytest.approx(plain.losses, abs=LOSS)
        assert rank.steps[step].grad_norm == pytest.approx(plain.grad_norm, rel=NORM)
    gradients, weights = (record.merge(ranks, step, kind) for kind in ("gradients", "weights"))
    assert gradients.keys() == plain.gradients.keys() and weights.keys() == plain.weights.keys()
    for name, gradient in gradients.items():
        difference = float((gradient - plain.gradients[name]).abs().max()) / plain.grad_norm
        assert difference <= GRADIENT, f"gradient of {name} at step {step}: {difference:.1e}"
    for name, weight in weights.items():
        difference = float((weight - plain.weights[name]).abs().max())
        assert difference <= WEIGHT, f"{name} after step {step}: {difference:.1e}"
    if plain.negatives is not None:
        for rank in ranks:
            _compare_negatives(plain.negatives, rank, ranks, step)


def _compare_negatives(plain: torch.Tensor, rank: Record, ranks: Sequence[Record], step: int) -> None:
    """Rows within a microbatch plus the microbatch's first row are rows of the global batch."""
    drawn = rank.steps[step].negatives
    assert drawn is not None
    data_size, samples = 1 + max(other.coordinates[1] for other in ranks), drawn.shape[-1]
    for number, rows in enumerate(drawn):
        start = (number * data_size + rank.coordinates[1]) * samples
        assert torch.equal(torch.where(rows >= 0, rows + start, -1), plain[:, start : start + samples])
