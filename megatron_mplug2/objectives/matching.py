"""VLM: does the text match the picture or clip? One positive and two hard negatives a sample (ALBEF's and mPLUG's matching loss)."""

import torch
from torch.nn import functional as F


def matching_loss(logits: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, summed over positives and valid negatives: a scalar, at least fp32.

    `logits`: [3b, 2], class 1 is a match; rows are b positives, b (text i, its negative image), b (its negative text, image i).
    `valid`: [b] bool (`negatives.valid_negatives`); what the other samples' negative rows hold has no influence.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    every, none = torch.ones_like(valid), torch.zeros_like(valid)
    losses = F.cross_entropy(precise, torch.cat([every, none, none]).long(), reduction="none")
    return torch.where(torch.cat([every, valid, valid]), losses, 0.0).sum()
