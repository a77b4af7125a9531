"""Accuracy of boxes: a phrase is grounded where its box overlaps the true one by half."""

import torch

ENOUGH = 0.5
"""Intersection over union of a right box."""


def box_accuracy(said: torch.Tensor, truth: torch.Tensor) -> float:
    """[n, 4] and [n, 4] boxes (left, upper edge, width, height, in the same unit) -> percentage with an overlap of half or more."""
    return 100 * float((intersection_over_union(said, truth) >= ENOUGH).double().mean())


def intersection_over_union(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[n, 4] and [n, 4] boxes, likewise -> [n] fp64, 0 to 1. A box of no or negative size overlaps nothing."""
    one, other = one.double(), other.double()
    upper_left = torch.maximum(one[:, :2], other[:, :2])
    lower_right = torch.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    shared = (lower_right - upper_left).clamp(min=0).prod(dim=1)
    union = one[:, 2:].clamp(min=0).prod(dim=1) + other[:, 2:].clamp(min=0).prod(dim=1) - shared
    return torch.where(shared > 0, shared / union, torch.zeros_like(shared))
