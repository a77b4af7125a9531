"""VLC between features and backward: from the features of a rank's microbatches to what each microbatch needs for its backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.models.microbatch import ContrastShare
from megatron_mplug2.objectives.contrastive import contrast
from megatron_mplug2.objectives.ids import pair_ids
from megatron_mplug2.objectives.key_queue import KeyQueue, Keys
from megatron_mplug2.objectives.negatives import draw_negatives
from megatron_mplug2.objectives.queue_contrast import alpha_at, contrast_with_keys
from megatron_mplug2.parallel.device import device
from megatron_mplug2.parallel.topology import Topology


@dataclass(frozen=True)
class RankFeatures:
    """Features of all of a rank's microbatches, on the ranks of the stage that owns them. Detached."""

    vision: torch.Tensor
    """[M, b, d]."""
    text: torch.Tensor
    """[M, b, d]."""
    log_temperature: torch.Tensor
    """Scalar."""


Solve = Callable[[Sequence[PairBatch], Sequence[int], RankFeatures], list[ContrastShare]]
"""Microbatches, their indices in the global batch and their features -> the share of each."""


def solve(
    config: RunConfig, topology: Topology, step: int, batches: Sequence[PairBatch], indices: Sequence[int], features: RankFeatures
) -> list[ContrastShare]:
    """The share of each microbatch. `indices`: of the microbatches in the global batch. Collective over the data-parallel group."""
    vlc, count = config.objectives.vlc, len(batches)
    ids = [pair_ids(batch) for batch in batches]
    result = contrast(
        features.vision.flatten(0, 1), features.text.flatten(0, 1), torch.cat(ids), features.log_temperature, topology.data_group, vlc.chunk
    )
    vision_grads, text_grads = (grad.unflatten(0, (count, -1)) for grad in (result.vision_grad, result.text_grad))
    shares = []
    for number, index in enumerate(indices):
        image_for_text, text_for_image = _negatives(config, step, index, ids[number], features, number)
        share = ContrastShare(
            image_for_text=image_for_text,
            text_for_image=text_for_image,
            vision_features=features.vision[number],
            text_features=features.text[number],
            vision_grad=vision_grads[number],
            text_grad=text_grads[number],
            log_temperature_grad=result.log_temperature_grad / count,
            loss=result.loss / (count * topology.data_size),
        )
        shares.append(share)
    return shares


def solve_with_queue(
    config: RunConfig,
    step: int,
    keys: Keys,
    queue: KeyQueue,
    batches: Sequence[PairBatch],
    indices: Sequence[int],
    features: RankFeatures,
) -> list[ContrastShare]:
    """As `solve`, against momentum features; no collective, and each microbatch on its own. `keys`: of the global batch, in its order."""
    vlc, shares = config.objectives.vlc, []
    for number, (batch, index) in enumerate(zip(batches, indices, strict=True)):
        samples = len(batch.sample_ids)
        vision, text = features.vision[number], features.text[number]
        result = contrast_with_keys(
            vision,
            text,
            keys.rows(index * samples, (index + 1) * samples),
            (keys, queue.filled),
            features.log_temperature,
            alpha=alpha_at(vlc.queue, step),
            batch=config.training.global_batch,
            chunk=vlc.chunk,
        )
        image_for_text, text_for_image = _negatives(config, step, index, pair_ids(batch), features, number)
        share = ContrastShare(
            image_for_text=image_for_text,
            text_for_image=text_for_image,
            vision_features=vision,
            text_features=text,
            vision_grad=result.vision_grad,
            text_grad=result.text_grad,
            log_temperature_grad=result.log_temperature_grad,
            loss=result.loss,
        )
        shares.append(share)
    return shares


def _negatives(
    config: RunConfig, step: int, index: int, ids: torch.Tensor, features: RankFeatures, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    samples = ids.shape[0]
    if config.objectives.vlm.weight == 0:  # the groups need not fit the microbatch then
        none = torch.full((samples,), -1, dtype=torch.int64, device=ids.device)
        return none, none
    drawn = draw_negatives(
        features.vision[number],
        features.text[number],
        ids,
        features.log_temperature,
        group_size=config.objectives.vlm.group,
        seed=config.training.seed,
        step=step,
        sample_positions=torch.arange(index * samples, (index + 1) * samples, device=ids.device),
    )
    return drawn.image_for_text, drawn.text_for_image


def share_negatives(shares: list[ContrastShare] | None, count: int, samples: int, owner: int, topology: Topology) -> list[ContrastShare]:
    """Sends the drawn rows from the owner's tensor rank 0 to every rank of the model replica: one draw, whatever rounding says elsewhere.

    Ranks of other stages pass None and get shares that hold nothing else.
    """
    if topology.tensor_size * topology.pipeline_size == 1:
        assert shares is not None
        return shares
    rows = torch.empty(count, 2, samples, dtype=torch.int64, device=device())
    if shares is not None:
        rows.copy_(torch.stack([torch.stack([share.image_for_text, share.text_for_image]) for share in shares]))
    dist.broadcast(rows, src=topology.model_parallel_rank(owner), group=topology.model_parallel_group)
    if shares is None:
        return [ContrastShare(image_for_text=images, text_for_image=texts) for images, texts in rows]
    return [replace(share, image_for_text=images, text_for_image=texts) for share, (images, texts) in zip(shares, rows, strict=True)]
