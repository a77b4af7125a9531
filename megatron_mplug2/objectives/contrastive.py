"""VLC: the contrastive loss over the whole global batch, exact, without the B x B matrix on any rank.

With V, T the [B, d] features of the global batch, S = V T' / tau, and y_i uniform over the positives of sample i (equal media
id or equal meaning id: the same-id targets of ALBEF and mPLUG, without their momentum distillation),

    loss = 1/2 [mean_i CE(S_i, y_i) + mean_i CE(S'_i, y_i)].

Each rank has b = B / data-parallel size of the samples. Its own features' gradient needs rows of S and S' that are its own, and
of the other samples nothing but their features, two log-sum-exps and a number of positives: so two sweeps over b x chunk blocks,
with one all-gather of four numbers a sample between them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_mplug2.config.schema import VLCConfig
from megatron_mplug2.objectives.ids import equal_ids
from megatron_mplug2.parallel.gather import gather_rows


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The loss over the global batch and its gradient in what this rank holds. Detached, at least fp32."""

    loss: torch.Tensor
    """Scalar, bit for bit the same on every data-parallel rank."""
    vision_grad: torch.Tensor
    """[b, d], complete."""
    text_grad: torch.Tensor
    """[b, d], complete."""
    log_temperature_grad: torch.Tensor
    """Scalar, this rank's part: the sum over data-parallel ranks is the gradient."""


@torch.no_grad()
def contrast(
    vision: torch.Tensor,
    text: torch.Tensor,
    ids: torch.Tensor,
    log_temperature: torch.Tensor,
    group: dist.ProcessGroup | None,
    chunk: int,
) -> Contrast:
    """The contrastive loss of the step, from all of this rank's samples: those of every microbatch, one after another.

    `vision`, `text`: [b, d], L2-normalised; `ids`: [b, 2] int64 (`pair_ids`); `log_temperature`: scalar log(tau); `group`: the
    data-parallel ranks, each with the same b, or None for this process alone; `chunk`: columns of S that are made at once.
    Which rank and which row a sample is in has no influence but rounding.
    """
    precision = torch.promote_types(vision.dtype, torch.float32)
    inverse_temperature = torch.exp(-log_temperature.to(precision))
    vision, text = vision.to(precision), text.to(precision)
    all_vision, all_text, all_ids = (gather_rows(rows, group) for rows in (vision, text, ids))
    batch = all_ids.shape[0]

    vision_rows = _row_statistics(vision * inverse_temperature, all_text, ids, all_ids, chunk)
    text_rows = _row_statistics(text * inverse_temperature, all_vision, ids, all_ids, chunk)
    positives = vision_rows.positives
    loss = vision_rows.log_sum_exp + text_rows.log_sum_exp - (vision_rows.positive_sum + text_rows.positive_sum) / positives
    own = torch.stack([vision_rows.log_sum_exp, text_rows.log_sum_exp, 1 / positives, loss])
    all_vision_lse, all_text_lse, all_targets, all_loss = gather_rows(own.T, group).T

    scale = inverse_temperature / (2 * batch)
    vision_columns = _Columns(features=all_text, ids=all_ids, log_sum_exp=all_text_lse, target=all_targets)
    text_columns = _Columns(features=all_vision, ids=all_ids, log_sum_exp=all_vision_lse, target=all_targets)
    vision_grad = scale * _weighted_columns(vision * inverse_temperature, ids, vision_rows, vision_columns, chunk)
    text_grad = scale * _weighted_columns(text * inverse_temperature, ids, text_rows, text_columns, chunk)
    return Contrast(
        loss=all_loss.sum() / (2 * batch),
        vision_grad=vision_grad,
        text_grad=text_grad,
        # The loss sees V and tau as V / tau only, so its derivative in log(tau) is minus that in V along V (Euler).
        log_temperature_grad=-(vision * vision_grad).sum(),
    )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What is summed up over all B columns of this rank's rows of S (or of S'), each [b]."""

    log_sum_exp: torch.Tensor
    positive_sum: torch.Tensor
    """Sum of the logits of the positives."""
    positives: torch.Tensor
    """Number of positives, the sample itself among them."""


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The columns of S (or of S'): the global batch's other modality."""

    features: torch.Tensor
    """[B, d]."""
    ids: torch.Tensor
    """[B, 2]."""
    log_sum_exp: torch.Tensor
    """[B], of each column in its own direction: over the rows."""
    target: torch.Tensor
    """[B], 1 / number of positives."""


def _row_statistics(scaled: torch.Tensor, columns: torch.Tensor, ids: torch.Tensor, all_ids: torch.Tensor, chunk: int) -> _Rows:
    """First sweep. `scaled`: [b, d] features over tau; `columns`: [B, d]."""
    log_sum_exp = scaled.new_full(scaled.shape[:1], -math.inf)
    positive_sum, positives = torch.zeros_like(log_sum_exp), torch.zeros_like(log_sum_exp)
    for features, column_ids in zip(columns.split(chunk), all_ids.split(chunk), strict=True):
        logits = scaled @ features.T
        positive = equal_ids(ids, column_ids)
        log_sum_exp = torch.logaddexp(log_sum_exp, logits.logsumexp(dim=1))
        positive_sum += (logits * positive).sum(dim=1)
        positives += positive.sum(dim=1)
    return _Rows(log_sum_exp=log_sum_exp, positive_sum=positive_sum, positives=positives)


def _weighted_columns(scaled: torch.Tensor, ids: torch.Tensor, rows: _Rows, columns: _Columns, chunk: int) -> torch.Tensor:
    """Second sweep: [b, d], the columns' features summed with the weights 2B dloss/dS, which both directions' softmaxes give."""
    total = torch.zeros_like(scaled)
    parts = (part.split(chunk) for part in (columns.features, columns.ids, columns.log_sum_exp, columns.target))
    row_lse, row_target = rows.log_sum_exp[:, None], 1 / rows.positives[:, None]
    for features, column_ids, column_lse, column_target in zip(*parts, strict=True):
        logits = scaled @ features.T
        weights = torch.exp(logits - row_lse)
        weights += torch.exp(logits - column_lse)
        weights -= equal_ids(ids, column_ids) * (row_target + column_target)
        total.addmm_(weights, features)
    return total


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vision: torch.Tensor, text: torch.Tensor, log_temperature: torch.Tensor, *grads: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*grads)
        return log_temperature.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> Any:
        gradients = (incoming[0] * grad for grad in ctx.saved_tensors)
        return (*gradients, None, None, None)


def surrogate(
    vision: torch.Tensor,
    text: torch.Tensor,
    log_temperature: torch.Tensor,
    vision_grad: torch.Tensor,
    text_grad: torch.Tensor,
    log_temperature_grad: torch.Tensor,
) -> torch.Tensor:
    """A scalar that stands for the contrastive loss in a microbatch's backward.

    Its value is 0; its gradients in the first three arguments are the last three, times the incoming gradient.
    """
    return _Surrogate.apply(vision, text, log_temperature, vision_grad, text_grad, log_temperature_grad)


@torch.no_grad()
def clamp_log_temperature_(log_temperature: torch.Tensor, config: VLCConfig) -> None:
    """Puts tau back between its bounds, in place; after each optimizer step."""
    log_temperature.clamp_(math.log(config.min_temperature), math.log(config.max_temperature))
