"""Instruction-based language modelling: the decoder predicts each next token of the target."""

import torch
import torch.distributed as dist

from megatron_mplug2.config.objectives import Averaging
from megatron_mplug2.data.batch import IGNORED, PAD
from megatron_mplug2.objectives.token_loss import token_losses


def _next_tokens(targets: torch.Tensor) -> torch.Tensor:
    """[b, L] -> [b, L - 1] labels: what follows each position; IGNORED where only padding follows."""
    following = targets[:, 1:]
    return following.masked_fill(following == PAD, IGNORED)


def instruction_lm_count(targets: torch.Tensor, averaging: Averaging, shares: torch.Tensor | None = None) -> torch.Tensor:
    """Scalar: predicted tokens, or rows that have any, each counted as its share [b] (int64 without shares)."""
    predicted = _next_tokens(targets) != IGNORED
    rows = predicted.sum(dim=1) if averaging is Averaging.TOKEN else predicted.any(dim=1)
    return rows.sum() if shares is None else (rows * shares).sum()


def instruction_lm_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    averaging: Averaging,
    vocab_size: int,
    tensor_group: dist.ProcessGroup | None,
    smoothing: float = 0.0,
    *,
    shares: torch.Tensor | None = None,
    advantages: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the next tokens, summed over tokens, or over rows of their mean over tokens: a scalar, at least fp32.
    `smoothing` as in `token_losses`. `shares` [b] weigh a row's loss, as they do its count, `advantages` [b] its loss alone.

    `logits`: [L, b, padded vocabulary / tensor size], the last position of no use; `targets`: [b, L] int64, [CLS] tokens [SEP], then
    padding. A row is a pair of sample and instruction; one without tokens to predict adds 0.
    """
    labels = _next_tokens(targets)
    losses = token_losses(logits[:-1], labels, vocab_size, tensor_group, smoothing).sum(dim=1)
    if averaging is Averaging.SAMPLE:
        losses = losses / (labels != IGNORED).sum(dim=1).clamp(min=1)
    for weights in (shares, advantages):
        losses = losses if weights is None else losses * weights
    return losses.sum()
