"""What the loader hands to the step: the microbatches of one rank, as tensors of fixed shape."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from megatron_mplug2.config.schedule import Task

PAD = 0
"""Token id of padding (bert-base-uncased's [PAD])."""

IGNORED = -100
"""Label of a position that has no loss (PyTorch's cross-entropy convention, used by the released code too)."""


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """A microbatch of b text samples. Token tensors are int64, padded with the tokenizer's pad id (0)."""

    masked: torch.Tensor
    """[b, document_length] document with MLM's replacements."""
    labels: torch.Tensor
    """[b, document_length] the original token where MLM asks for it, else IGNORED."""
    prefix: torch.Tensor
    """[b, document_length] first part of the document, for text-only generation."""
    targets: torch.Tensor
    """[b, target_length] its continuation: [CLS] tokens [SEP], padded."""
    sample_ids: torch.Tensor
    """[b] int64, index of the sample in its stream's manifest."""

    @property
    def task(self) -> Task:
        return Task.TEXT


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A microbatch of b pictures or clips with their texts; k = objectives.lm.instructions."""

    task: Task
    media: torch.Tensor | None
    """[b, 3, T, H, W] uint8, T=1 for pictures, 2 for pairs of them: the vision encoder normalises them, on its device (real numbers are
    taken to be normalised already); None on stages without the vision encoder."""
    captions: torch.Tensor
    """[b, text_length] int64."""
    instructions: torch.Tensor
    """[b * k, text_length] int64, the k of a sample next to each other."""
    targets: torch.Tensor
    """[b * k, target_length] int64, answer to each instruction: [CLS] tokens [SEP], padded."""
    shares: torch.Tensor | None = None
    """[b * k] fp32, share of a question that an answer is: weighs its loss and its count. None: all 1."""
    advantages: torch.Tensor | None = None
    """[b * k] fp32, weighs the loss alone: of a drawn caption its reward above the likeliest one's. None: all 1."""
    media_ids: torch.Tensor
    """[b] int64, equal for samples of one picture or clip."""
    meaning_ids: torch.Tensor
    """[b] int64, equal for samples that mean the same; never equal by accident (where a corpus has none: the media id)."""
    sample_ids: torch.Tensor
    """[b] int64, index of the sample in its stream's manifest."""


Batch = TextBatch | PairBatch


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {name: moved_tensor(value, device) for name, value in values.items() if isinstance(value, torch.Tensor)}
    return type(batch)(**{**values, **tensors})


def moved_tensor(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To a GPU it goes through pinned memory, from which that copies without the host."""
    pinned = tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor
    return pinned.to(device, non_blocking=True)
