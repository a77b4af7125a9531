"""What an objective is called and what it returns."""

from dataclasses import dataclass
from enum import StrEnum

import torch


class Objective(StrEnum):
    """The four pretraining objectives."""

    MLM = "mlm"
    """Masked language modelling."""
    VLC = "vlc"
    """Vision-language contrast."""
    VLM = "vlm"
    """Vision-language matching."""
    LM = "lm"
    """Instruction-based language modelling."""


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """A loss before its normalisation: summed over local items, to be divided by the count of the global batch's items."""

    sum: torch.Tensor
    """Scalar, at least fp32, differentiable."""
    count: torch.Tensor
    """Scalar of the same type: the local items that the sum goes over; 0 where there are none, and then the sum is 0 too."""
