"""From frames of R x R to what the model takes."""

from collections.abc import Sequence
from functools import cache

import torch

from megatron_mplug2.data.decoding.augment import Operation, augmented

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP, github.com/openai/CLIP clip.py
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def finished(squares: torch.Tensor, operations: Sequence[Operation]) -> torch.Tensor:
    """[3, T, R, R] uint8 after RandAugment's operations, from [T, 3, R, R] uint8, on its device."""
    return augmented(squares, operations).transpose(0, 1).contiguous()


def normalised(media: torch.Tensor) -> torch.Tensor:
    """[b, 3, T, R, R] float32 with CLIP's mean and deviation, from uint8 levels. Real numbers are taken to be so already."""
    if media.is_floating_point():
        return media
    return media.float().div_(255).sub_(_channels(MEAN, media.device)).div_(_channels(DEVIATION, media.device))


@cache
def _channels(numbers: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """[3, 1, 1, 1]. Kept, since a GPU's host waits for all work before it when it copies numbers there."""
    return torch.tensor(numbers, device=device).view(3, 1, 1, 1)
