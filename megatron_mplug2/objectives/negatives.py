"""Hard negatives for VLM, drawn from the contrastive similarity inside fixed groups of consecutive samples.

mPLUG draws them among the local batch, so its draws depend on the layout; here a group stays together in every layout. A draw
is the argmax of logits + Gumbel noise, in fp64, the noise keyed by (seed, step, direction, sample, candidate): the same
negatives on any number of ranks and microbatches, as long as the features are.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch

from megatron_mplug2.objectives.ids import equal_ids
from megatron_mplug2.objectives.keyed_noise import gumbel


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """Rows in the tensors that the draw was given; -1 where the group has no sample of another media and meaning."""

    image_for_text: torch.Tensor
    """[b] int64: for each text, a picture or clip that doesn't match."""
    text_for_image: torch.Tensor
    """[b] int64: for each picture or clip, a text that doesn't match."""


class _Direction(IntEnum):
    """Part of the noise's key."""

    IMAGE_FOR_TEXT = 0
    TEXT_FOR_IMAGE = 1


def _groups(rows: torch.Tensor, size: int) -> torch.Tensor:
    """[b, ...] -> [b / size, size, ...]; ValueError where a group would be cut."""
    if rows.shape[0] % size:
        raise ValueError(f"{rows.shape[0]} samples are not whole groups of {size} for hard negatives (objectives.vlm.group)")
    return rows.unflatten(0, (-1, size))


def valid_negatives(ids: torch.Tensor, group_size: int) -> torch.Tensor:
    """[b, 2] ids (`ids.pair_ids`) -> [b] bool: the sample's group holds one of another media and meaning, so it has negatives.

    Known from the ids alone, the same for both directions: VLM has b + 2 x (number valid) pairs.
    """
    grouped = _groups(ids, group_size)
    return (~equal_ids(grouped, grouped)).any(dim=-1).flatten()


@torch.no_grad()
def draw_negatives(
    vision: torch.Tensor,
    text: torch.Tensor,
    ids: torch.Tensor,
    log_temperature: torch.Tensor,
    *,
    group_size: int,
    seed: int,
    step: int,
    sample_positions: torch.Tensor,
) -> HardNegatives:
    """For each text a picture with probability softmax(t . v / tau) over its group's members of other media and meaning; and
    for each picture a text likewise (mPLUG and ALBEF, there over the rank's batch).

    `vision`, `text`: [b, d], L2-normalised; `ids`: [b, 2]; `sample_positions`: [b] int64, the samples' positions in the global
    batch, whose groups of `group_size` are consecutive here too. Raises ValueError where b is not a multiple of `group_size`.
    """
    images, texts = _groups(vision.double(), group_size), _groups(text.double(), group_size)
    text_to_image = texts @ images.mT * torch.exp(-log_temperature.double())
    grouped_ids, positions = _groups(ids, group_size), _groups(sample_positions, group_size)
    forbidden = equal_ids(grouped_ids, grouped_ids)

    def draw(logits: torch.Tensor, direction: _Direction) -> torch.Tensor:
        noise = gumbel(seed, step, int(direction), positions[:, :, None], positions[:, None, :])
        best = (logits + noise).masked_fill_(forbidden, -math.inf).argmax(dim=-1)
        first_of_group = torch.arange(0, ids.shape[0], group_size, device=ids.device)[:, None]
        return torch.where(forbidden.all(dim=-1), -1, best + first_of_group).flatten()

    return HardNegatives(
        image_for_text=draw(text_to_image, _Direction.IMAGE_FOR_TEXT),
        text_for_image=draw(text_to_image.mT, _Direction.TEXT_FOR_IMAGE),
    )
