"""Which samples of a batch mean the same: they are positives of each other in VLC and never negatives in VLM."""

import torch

from megatron_mplug2.data.batch import PairBatch


def pair_ids(batch: PairBatch) -> torch.Tensor:
    """[b, 2] int64: media id and meaning id of each sample."""
    return torch.stack([batch.media_ids, batch.meaning_ids], dim=1)


def equal_ids(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """[..., n, 2] and [..., m, 2] -> [..., n, m] bool: equal media id or equal meaning id.

    Symmetric, and true of a sample and itself; not transitive.
    """
    media = rows[..., :, None, 0] == columns[..., None, :, 0]
    return media.logical_or_(rows[..., :, None, 1] == columns[..., None, :, 1])
