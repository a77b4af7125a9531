"""Torch's counter of operations, told of the products that it doesn't know."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop


def flop_counter() -> FlopCounterMode:
    return FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear, torch.ops.aten.mkldnn_linear_backward_weights: _gradient},
    )


def _linear(x: torch.Size, weight: torch.Size, *others: Any, **named: Any) -> int:
    count: int = mm_flop((x[:-1].numel(), x[-1]), (weight[1], weight[0]))
    return count


def _gradient(gradient: torch.Size, rows: torch.Size, *others: Any, **named: Any) -> int:
    count: int = mm_flop((gradient[1], gradient[0]), rows)
    return count
