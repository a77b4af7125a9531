"""VLM: does the text match the picture or clip? One positive and two hard negatives a sample (ALBEF's and mPLUG's matching loss)."""

import torch
from torch.nn import functional as F

from megatron_mplug2.objectives.result import LossSum


def _labels(valid: torch.Tensor) -> torch.Tensor:
    """[b] bool -> [3b] int64, 1 is a match."""
    return torch.cat([torch.ones_like(valid), torch.zeros_like(valid), torch.zeros_like(valid)]).long()


def _counted(valid: torch.Tensor) -> torch.Tensor:
    """[b] bool -> [3b] bool: all positives, and the negatives of samples that have them."""
    return torch.cat([torch.ones_like(valid), valid, valid])


def matching_loss(logits: torch.Tensor, valid: torch.Tensor) -> LossSum:
    """Cross-entropy, summed over positives and valid negatives.

    `logits`: [3b, 2], class 1 is a match; rows are b positives, b (text i, its negative image), b (its negative text, image i).
    `valid`: [b] bool (`negatives.valid_negatives`); what the other samples' negative rows hold has no influence.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(precise, _labels(valid), reduction="none")
    counted = _counted(valid)
    return LossSum(sum=torch.where(counted, losses, 0.0).sum(), count=counted.sum().to(losses.dtype))
