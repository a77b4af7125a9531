"""VLC: the contrastive loss over the whole global batch, exact, without the B x B matrix on any rank.

With V, T the [B, d] features of the global batch, S = V T' / tau, and y_i uniform over the positives of sample i (equal media
id or equal meaning id: the same-id targets of ALBEF and mPLUG, without their momentum distillation),

    loss = 1/2 [mean_i CE(S_i, y_i) + mean_i CE(S'_i, y_i)].

Each rank has b = B / data-parallel size of the samples. Its own features' gradient needs rows of S and S' that are its own, and
of the other samples nothing but their features, two log-sum-exps and a number of positives: so two sweeps over b x chunk blocks
(`logit_blocks`), with one all-gather of four numbers a sample between them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.objectives.logit_blocks import Columns, row_statistics, weighted_columns
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

    vision_rows = row_statistics(vision * inverse_temperature, all_text, ids, all_ids, chunk)
    text_rows = row_statistics(text * inverse_temperature, all_vision, ids, all_ids, chunk)
    positives = vision_rows.positives
    loss = vision_rows.log_sum_exp + text_rows.log_sum_exp - (vision_rows.positive_sum + text_rows.positive_sum) / positives
    own = torch.stack([vision_rows.log_sum_exp, text_rows.log_sum_exp, 1 / positives, loss])
    all_vision_lse, all_text_lse, all_targets, all_loss = gather_rows(own.T, group).T

    scale = inverse_temperature / (2 * batch)
    vision_columns = Columns(features=all_text, ids=all_ids, log_sum_exp=all_text_lse, target=all_targets)
    text_columns = Columns(features=all_vision, ids=all_ids, log_sum_exp=all_vision_lse, target=all_targets)
    vision_grad = scale * weighted_columns(vision * inverse_temperature, ids, vision_rows, vision_columns, chunk)
    text_grad = scale * weighted_columns(text * inverse_temperature, ids, text_rows, text_columns, chunk)
    return Contrast(
        loss=all_loss.sum() / (2 * batch),
        vision_grad=vision_grad,
        text_grad=text_grad,
        # The loss sees V and tau as V / tau only, so its derivative in log(tau) is minus that in V along V (Euler).
        log_temperature_grad=-(vision * vision_grad).sum(),
    )


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
