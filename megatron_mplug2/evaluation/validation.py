"""A light look at retrieval while training goes on: contrastive features of a few validation samples."""

from collections.abc import Iterator
from itertools import takewhile

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import EvaluationBatch, Unreadable, evaluation_batches
from megatron_mplug2.data.split import Split
from megatron_mplug2.evaluation.gather import gather_samples
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.metrics.recall import recall
from megatron_mplug2.evaluation.ranking import Identities, candidates
from megatron_mplug2.parallel.topology import Topology

BATCH = 32
RETRIEVAL = ("t2v_r1", "v2t_r1")
"""Names of the figures."""


def validation_retrieval(inference: Inference, config: RunConfig, task: Task, samples: int) -> dict[str, float]:
    """R@1 in percent among the first `samples` of the validation split, by name (`RETRIEVAL`). For pictures or clips.

    Collective over the world. Raises UserError for unusable data.
    """
    topology = inference.context.topology
    batches = first_batches(config, task, topology, samples, batch=min(BATCH, samples))
    found = [_features(inference, batch, task, samples) for batch in batches]
    width = config.model.contrastive_width
    features = torch.cat([torch.empty(0, 2, width, device=inference.device), *(rows for rows, _ in found)])
    ids = torch.cat([torch.empty(0, 3, dtype=torch.int64), *(ids for _, ids in found)]).to(inference.device)
    features, _ = gather_samples(features, ids[:, 0], topology.data_group)
    ids, _ = gather_samples(ids, ids[:, 0], topology.data_group)
    similarity = features[:, 1] @ features[:, 0].T
    hits = Identities(media=ids[:, 1], meaning=ids[:, 2]).hits()
    return dict(zip(RETRIEVAL, (_r1(similarity, hits), _r1(similarity.T, hits)), strict=True))


def first_batches(config: RunConfig, task: Task, topology: Topology, samples: int, batch: int) -> Iterator[EvaluationBatch]:
    """This rank's batches of the validation split, up to the last one that may hold one of the split's first `samples`. Samples that cannot
    be read are left out. Raises UserError for unusable data."""
    batches = evaluation_batches(
        config,
        Split.VALIDATION,
        task,
        data_rank=topology.data_rank,
        data_size=topology.data_size,
        batch=batch,
        unreadable=Unreadable.LEAVE_OUT,
    )
    # Indices rise, so nothing comes after the first batch that is wholly beyond.
    return takewhile(lambda one: not len(one.indices) or int(one.indices[0]) < samples, batches)


def _features(inference: Inference, batch: EvaluationBatch, task: Task, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """([b, 2, d] of vision and text, [b, 3] ids of sample, media and meaning) of the batch's samples below `samples`."""
    kept = batch.indices < samples
    ids = torch.stack([batch.indices, batch.media_ids, batch.meaning_ids], dim=1)[kept]
    if not len(ids):
        return torch.empty(0, 2, inference.context.config.contrastive_width, device=inference.device), ids
    vision = inference.vision_features(inference.encode_media(batch.media[kept], task))
    text = inference.text_features(inference.encode_text(batch.captions[kept]))
    return torch.stack([vision, text], dim=1), ids


def _r1(similarity: torch.Tensor, hits: torch.Tensor) -> float:
    return recall(hits.gather(1, candidates(similarity, 1)), 1)
