"""Weights that are made when they are asked for, so that a conversion never holds all of them twice."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class LazyWeight:
    """A full, unsharded weight under its canonical name."""

    name: str
    size: torch.Size
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        return self.size.numel() * self.dtype.itemsize
