"""Torch's counter of operations, told of the product that it doesn't know."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop


def flop_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear})


def _linear(x: torch.Size, weight: torch.Size, *others: Any, **named: Any) -> int:
    count: int = mm_flop((x[:-1].numel(), x[-1]), (weight[1], weight[0]))
    return count
