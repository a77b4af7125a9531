"""From frames of R x R to what the model takes."""

from collections.abc import Sequence

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
    mean, deviation = (torch.tensor(numbers, device=media.device).view(3, 1, 1, 1) for numbers in (MEAN, DEVIATION))
    return media.float().div_(255).sub_(mean).div_(deviation)
