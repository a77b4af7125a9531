"""Evaluations of retrieval over so many random clips, each with a text of its own."""

from collections.abc import Callable

import torch

from benchmarks.step_cases import random_tokens
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.ranking import Identities, Retrieval, candidates
from megatron_mplug2.evaluation.retrieval import RERANKED, Gallery
from megatron_mplug2.parallel.device import device

AT_ONCE = 16
"""Clips that are encoded together."""


def retrieve(inference: Inference, config: RunConfig, clips: int) -> Callable[[], Retrieval]:
    """Encoding, scoring, re-ranking of the best of each query, both directions."""
    phase = config.schedule[0]
    shape = clips, 3, phase.frames, phase.resolution, phase.resolution
    media = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts, ids = random_tokens(config, clips, config.data.text_length), torch.arange(clips)

    def evaluate() -> Retrieval:
        gallery = Gallery(inference)
        for some in ids.split(AT_ONCE):
            gallery.add(some, inference.encode_media(media[some], Task.VIDEO_TEXT), texts[some][:, None].unbind())
        return gallery.gather().rank(Identities(media=ids, meaning=ids), RERANKED).retrieval()

    return evaluate


def all_pairs(config: RunConfig, clips: int) -> Callable[[], object]:
    """What of it is done for every pair of a text and a clip: similarities, hits, and each query's items in order."""
    vision, text = torch.randn(2, clips, config.model.contrastive_width, generator=torch.Generator().manual_seed(0)).to(device())
    ids = torch.arange(clips, device=device())

    def score() -> object:
        similarity, hits = text @ vision.T, Identities(media=ids, meaning=ids).hits()[ids]
        found = candidates(similarity, RERANKED), candidates(similarity.T, RERANKED)
        return found, hits.double().mean(), hits.T.double().mean()

    return score
