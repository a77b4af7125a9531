"""From samples to a batch, and from a batch to microbatches."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import Batch, PairBatch, TextBatch
from megatron_mplug2.data.samples import PairSample, TextSample

Stack = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""[...] n times -> [n, ...]."""


def text_batch(samples: Sequence[TextSample]) -> TextBatch:
    return TextBatch(
        masked=_rows([sample.document.tokens for sample in samples]),
        labels=_rows([sample.document.labels for sample in samples]),
        prefix=_rows([sample.prefix for sample in samples]),
        targets=_rows([sample.target for sample in samples]),
        sample_ids=torch.tensor([sample.index for sample in samples]),
    )


def pair_batch(task: Task, samples: Sequence[PairSample], media: Sequence[torch.Tensor], stack: Stack) -> PairBatch:
    """`media` are the samples' decoded pictures or clips, or none."""
    return PairBatch(
        task=task,
        media=stack(media) if media else None,
        captions=_rows([sample.caption for sample in samples]),
        instructions=torch.from_numpy(np.concatenate([sample.instructions for sample in samples])),
        targets=torch.from_numpy(np.concatenate([sample.targets for sample in samples])),
        shares=torch.from_numpy(np.concatenate([sample.shares for sample in samples])),
        media_ids=torch.tensor([sample.media_id for sample in samples]),
        meaning_ids=torch.tensor([sample.meaning_id for sample in samples]),
        sample_ids=torch.tensor([sample.index for sample in samples]),
    )


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Equal microbatches in order, as views."""
    tensors = {field.name: value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)}
    chunks: dict[str, Any] = {name: tensor.view(parts, -1, *tensor.shape[1:]) for name, tensor in tensors.items()}
    return [replace(batch, **{name: rows[part] for name, rows in chunks.items()}) for part in range(parts)]


def _rows(rows: Sequence[NDArray[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))
