"""VLC with momentum encoders and a queue, ALBEF's and mPLUG's contrast, without its b x (B + queue) matrix on any rank.

With v_i, t_i the live features of sample i, v'_i, t'_i its momentum features, and V', T' those of the global batch and of the queue,

    S_i = v_i T' / tau,    y_i = alpha softmax(v'_i T' / tau) + (1 - alpha) (uniform over the keys of equal media or meaning id),

and with text and vision exchanged for the other half, the loss is 1/2 [mean_i CE(S_i, y_i) + mean_i CE(S*_i, y*_i)] over the global
batch. Targets have no gradient. A sample's loss needs no other sample's live features: every microbatch is on its own.

Both softmaxes are needed only as means of keys, p T' and y T': the gradient in S_i's features is their difference, and since y_i sums
to 1, CE(S_i, y_i) = logsumexp(S_i) - (v_i / tau) (y_i T'). Those means are made as attention makes them, in one sweep over b x chunk
blocks with a running maximum, one block alive at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from megatron_mplug2.config.objectives import QueueConfig
from megatron_mplug2.objectives.ids import equal_ids
from megatron_mplug2.objectives.key_queue import Keys


@dataclass(frozen=True, kw_only=True)
class PartialContrast:
    """What b samples add to the loss over the global batch and to its gradient. Detached, at least fp32; sums give the whole."""

    loss: torch.Tensor
    """Scalar."""
    vision_grad: torch.Tensor
    """[b, d]."""
    text_grad: torch.Tensor
    """[b, d]."""
    log_temperature_grad: torch.Tensor
    """Scalar."""


def alpha_at(config: QueueConfig, step: int) -> float:
    """Share of the soft targets in a step, counted from 0."""
    return config.alpha * min(1.0, step / config.alpha_ramp_steps) if config.alpha_ramp_steps else config.alpha


@torch.no_grad()
def contrast_with_keys(
    vision: torch.Tensor,
    text: torch.Tensor,
    own: Keys,
    keys: Sequence[Keys],
    log_temperature: torch.Tensor,
    *,
    alpha: float,
    batch: int,
    chunk: int,
) -> PartialContrast:
    """The contrast of b samples with all keys.

    Args:
        vision: [b, d] live features, L2-normalised; `text` likewise.
        own: The same samples' momentum features, and their ids.
        keys: The global batch's momentum features, these samples' among them, and the queue's, which may be empty.
        log_temperature: Scalar log(tau).
        batch: Samples of the global batch, over which the loss is a mean.
        chunk: Keys whose similarities are made at once.
    """
    precision = torch.promote_types(vision.dtype, torch.float32)
    inverse_temperature = torch.exp(-log_temperature.to(precision))
    vision, text = vision.to(precision), text.to(precision)
    texts, images = [_Side(part.text, part.ids) for part in keys], [_Side(part.vision, part.ids) for part in keys]
    to_texts = _contrast(vision * inverse_temperature, own.vision * inverse_temperature, own.ids, texts, alpha, chunk)
    to_images = _contrast(text * inverse_temperature, own.text * inverse_temperature, own.ids, images, alpha, chunk)
    scale = inverse_temperature / (2 * batch)
    vision_grad, text_grad = scale * to_texts.direction, scale * to_images.direction
    return PartialContrast(
        loss=(to_texts.loss + to_images.loss).sum() / (2 * batch),
        vision_grad=vision_grad,
        text_grad=text_grad,
        # Each half sees its live features and tau as their ratio only (Euler); in the targets tau has no gradient.
        log_temperature_grad=-(vision * vision_grad + text * text_grad).sum(),
    )


@dataclass(frozen=True)
class _Side:
    """Keys of one modality."""

    features: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Half:
    loss: torch.Tensor
    """[b], cross-entropies."""
    direction: torch.Tensor
    """[b, d], their gradients in the live features over tau."""


def _contrast(live: torch.Tensor, momentum: torch.Tensor, ids: torch.Tensor, keys: Sequence[_Side], alpha: float, chunk: int) -> _Half:
    """`live`, `momentum`: [b, d] features of one modality over tau; `keys` are of the other."""
    predicted, soft = _SoftmaxMean(live), _SoftmaxMean(momentum)
    positives, positive_sum = live.new_zeros(len(live)), torch.zeros_like(live)
    for key, block in _blocks(live, keys, chunk):
        block.copy_(equal_ids(ids, key.ids))
        positives += block.sum(dim=1)
        positive_sum.addmm_(block, key.features)
        for side in (predicted, soft):
            side.add(key.features, block)
    target = alpha * soft.mean + (1 - alpha) * positive_sum / positives[:, None]
    return _Half(loss=predicted.log_sum_exp - (live * target).sum(dim=1), direction=predicted.mean - target)


class _SoftmaxMean:
    """The mean of keys with the softmax of their logits as weights, over all blocks that were added."""

    def __init__(self, scaled: torch.Tensor) -> None:
        """`scaled`: [b, d]; its products with keys are the logits."""
        self._scaled = scaled
        self._highest = scaled.new_full(scaled.shape[:1], float("-inf"))
        self._total = torch.zeros_like(self._highest)
        self._sum = torch.zeros_like(scaled)

    def add(self, keys: torch.Tensor, block: torch.Tensor) -> None:
        """`block`: [b, keys], overwritten."""
        torch.mm(self._scaled, keys.T, out=block)
        maximum = torch.maximum(self._highest, block.amax(dim=1))
        kept = torch.exp(self._highest - maximum)
        block.sub_(maximum[:, None]).exp_()
        self._total.mul_(kept).add_(block.sum(dim=1))
        self._sum.mul_(kept[:, None]).addmm_(block, keys)
        self._highest = maximum

    @property
    def log_sum_exp(self) -> torch.Tensor:
        return self._highest + self._total.log()

    @property
    def mean(self) -> torch.Tensor:
        return self._sum / self._total[:, None]


def _blocks(rows: torch.Tensor, keys: Sequence[_Side], chunk: int) -> Iterator[tuple[_Side, torch.Tensor]]:
    """Ranges of keys, each with a [b, width] block to write into: always the same memory."""
    memory = rows.new_empty(len(rows) * min(chunk, max(len(part.ids) for part in keys)))
    for part in keys:
        for features, ids in zip(part.features.split(chunk), part.ids.split(chunk), strict=True):
            if len(ids):  # an empty tensor splits into one empty part
                yield _Side(features, ids), memory[: len(rows) * len(ids)].view(len(rows), len(ids))
