"""MLM: the original tokens at the masked positions of a document."""

import torch
import torch.distributed as dist

from megatron_mplug2.data.batch import IGNORED
from megatron_mplug2.objectives.token_loss import token_losses


def masked_lm_count(labels: torch.Tensor) -> torch.Tensor:
    """Scalar int64: positions that MLM asks for."""
    return (labels != IGNORED).sum()


def masked_lm_loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, tensor_group: dist.ProcessGroup | None) -> torch.Tensor:
    """Cross-entropy summed over the positions that have a label: a scalar, at least fp32.

    `logits`: [L, b, padded vocabulary / tensor size]; `labels`: [b, L] int64, IGNORED where nothing is asked (may be everywhere).
    """
    return token_losses(logits, labels, vocab_size, tensor_group).sum()
