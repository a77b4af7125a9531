"""Cross-entropy of tokens over a vocabulary that is split over tensor-parallel ranks and padded.

The arithmetic is Megatron-Core's. Its own autograd functions take the group from a global, write into the caller's logits in
fp32 and know no pad rows (the plain one), or round the gradient to bf16 whatever the precision (the fused one).
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.cross_entropy import VocabParallelCrossEntropy

from megatron_mplug2.data.batch import IGNORED


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, tensor_group: dist.ProcessGroup | None, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of each token, 0 where the label is IGNORED: [b, L], at least fp32.

    `logits`: [L, b, padded vocabulary / tensor size], this rank's slice; left as it is. `labels`: [b, L] int64 below
    `vocab_size`, or IGNORED. Rows of the vocabulary from `vocab_size` on are pads: no probability, no gradient. `tensor_group`
    None is this process alone. `smoothing`: share of each target that is spread evenly over the vocabulary, as in torch's
    `CrossEntropyLoss(label_smoothing=...)`.
    """
    asked = labels != IGNORED
    target = torch.where(asked, labels, 0).T.contiguous()
    losses: torch.Tensor = _TokenLosses.apply(logits, target, vocab_size, tensor_group, smoothing)
    return torch.where(asked, losses.T, 0.0)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, vocab_size: int, group: dist.ProcessGroup | None, smoothing: float
    ) -> torch.Tensor:
        rank, size = (0, 1) if group is None else (group.rank(), group.size())
        slice_start, slice_rows = rank * logits.shape[-1], logits.shape[-1]
        precision = torch.promote_types(logits.dtype, torch.float32)
        # The copy that Megatron-Core's in-place steps turn into the softmax.
        work = logits.to(precision, copy=True, memory_format=torch.contiguous_format)
        real = max(0, vocab_size - slice_start)
        work[..., real:] = -math.inf
        maximum = _reduced(work.amax(dim=-1), dist.ReduceOp.MAX, group, size)
        even = (work[..., :real] - maximum[..., None]).sum(dim=-1) / vocab_size if smoothing else torch.zeros_like(maximum)
        elsewhere, row, predicted, sum_exp, exp = VocabParallelCrossEntropy.calculate_predicted_logits(
            work, target, maximum, slice_start, slice_start + slice_rows
        )
        predicted, sum_exp, even = _reduced(torch.stack([predicted, sum_exp, even]), dist.ReduceOp.SUM, group, size)
        softmax, losses = VocabParallelCrossEntropy.calculate_cross_entropy_loss(exp, predicted, sum_exp)
        ctx.save_for_backward(softmax, elsewhere, row)
        ctx.dtype, ctx.real, ctx.smoothing, ctx.vocab_size = logits.dtype, real, smoothing, vocab_size
        # The loss is log Z - (1 - s) predicted - s mean: of the target with 1 - s of its mass, and s of it on all classes evenly.
        return losses + smoothing * (predicted - even) if smoothing else losses

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> Any:
        softmax, elsewhere, row = ctx.saved_tensors
        flat, index, update, gradient = VocabParallelCrossEntropy.prepare_gradient_calculation_operands(softmax, elsewhere)
        if ctx.smoothing:
            update = (1 - ctx.smoothing) * update
            flat[:, : ctx.real] -= ctx.smoothing / ctx.vocab_size
        gradient = VocabParallelCrossEntropy.calculate_gradients(flat, index, row, update, gradient, incoming[0])
        return gradient.to(ctx.dtype), None, None, None, None


def _reduced(x: torch.Tensor, operation: Any, group: dist.ProcessGroup | None, size: int) -> torch.Tensor:
    if size > 1:
        dist.all_reduce(x, op=operation, group=group)
    return x
