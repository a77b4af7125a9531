"""Retrieval in both directions: by the contrastive similarity, then with the best candidates re-ranked by the matching head."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_mplug2.evaluation.gather import gather_samples
from megatron_mplug2.evaluation.inference import EncodedMedia, EncodedText, Inference

RERANKED = 16
"""Candidates of a query that the matching head re-ranks."""
PAIRS_AT_ONCE = 512
"""Fused pairs in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """One direction. Percentages, but for the gallery."""

    r1: float
    """Queries whose best item is a hit, by similarity."""
    r5: float
    """Queries with a hit among the best five."""
    r10: float
    r1_rerank: float
    """As `r1`, with the 16 best ordered by match probability."""
    chance_r1: float
    """What `r1` is by blind choice: the mean share of hits in the gallery."""
    gallery: int
    """Distinct meanings among the items that are searched."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    t2v: RetrievalResult
    """A text finds its picture or clip."""
    v2t: RetrievalResult
    """A picture or clip finds its text."""


@dataclass(frozen=True, kw_only=True)
class Identities:
    """What samples are, [N] int64 each. A hit is an item of equal media or equal meaning."""

    media: torch.Tensor
    meaning: torch.Tensor

    def hits(self) -> torch.Tensor:
        """[N, N] bool."""
        return (self.media[:, None] == self.media) | (self.meaning[:, None] == self.meaning)


class Gallery:
    """Pictures or clips and a text of each. Every data-parallel rank adds its own samples; a score is then found by all together."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._group: dist.ProcessGroup = inference.context.topology.data_group
        self._indices: list[torch.Tensor] = []
        self._media: list[EncodedMedia] = []
        self._text: list[EncodedText] = []

    def add(self, indices: torch.Tensor, media: EncodedMedia, text: EncodedText) -> None:
        """A batch of this rank's samples: `indices` [b] int64 in the manifest, and their b media and b texts."""
        self._indices.append(indices.to(media.tokens.device))
        self._media.append(media)
        self._text.append(text)

    def __bool__(self) -> bool:
        """Whether this rank has samples."""
        return bool(self._indices)

    def similarities(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(cosines [texts, media] over the samples of all ranks, their indices [N] rising)."""
        inference, own = self._inference, self._own_indices()
        vision = torch.cat([inference.vision_features(media) for media in self._media])
        text = torch.cat([inference.text_features(text) for text in self._text])
        whole, indices = gather_samples(torch.stack([vision, text], dim=1), own, self._group)
        return whole[:, 1] @ whole[:, 0].T, indices

    def score(self, similarity: torch.Tensor, indices: torch.Tensor, identities: Identities) -> Retrieval:
        """Both directions over the samples at `indices` [N], whose identities are given in the same order."""
        hits = identities.hits().to(similarity.device)
        gallery = len(identities.meaning.unique())
        t2v, v2t = candidates(similarity), candidates(similarity.T)
        items = torch.arange(len(indices), device=indices.device)[:, None]
        # One code for a pair of text and media, whichever direction asks for it.
        codes_t2v, codes_v2t = items * len(indices) + t2v, (v2t * len(indices) + items).contiguous()
        codes = torch.cat([codes_t2v.flatten(), codes_v2t.flatten()]).unique()
        match = self._match(codes // len(indices), codes % len(indices), indices)
        return Retrieval(
            t2v=result(similarity, match[torch.searchsorted(codes, codes_t2v)], hits, gallery),
            v2t=result(similarity.T, match[torch.searchsorted(codes, codes_v2t)], hits, gallery),
        )

    def _match(self, texts: torch.Tensor, media: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """[P] match probability of pairs of all ranks' samples; each is made where its picture or clip lies."""
        own = self._own_indices()
        # Positions among all samples -> rows on this rank.
        own_rows = torch.full_like(indices, -1)
        own_rows[torch.searchsorted(indices, own)] = torch.arange(len(own), device=own.device)
        rows = own_rows[media]
        mine = (rows >= 0).nonzero()[:, 0]
        everyones_text, own_media = self._gathered_text(), self._own_media()
        match = torch.zeros(len(texts), device=texts.device)
        for part in mine.split(PAIRS_AT_ONCE):
            fused = self._inference.fuse(everyones_text.rows(texts[part]), own_media, rows[part])
            match[part] = self._inference.match_probability(fused)
        dist.all_reduce(match, group=self._group)
        return match

    def _gathered_text(self) -> EncodedText:
        own = self._own_indices()
        tokens = torch.cat([text.tokens for text in self._text], dim=1).transpose(0, 1)
        keys = torch.cat([text.keys for text in self._text])
        all_tokens, _ = gather_samples(tokens, own, self._group)
        all_keys, _ = gather_samples(keys.to(torch.uint8), own, self._group)
        return EncodedText(tokens=all_tokens.transpose(0, 1).contiguous(), keys=all_keys.bool())

    def _own_media(self) -> EncodedMedia:
        return EncodedMedia(tokens=torch.cat([media.tokens for media in self._media], dim=1), length=self._media[0].length)

    def _own_indices(self) -> torch.Tensor:
        return torch.cat(self._indices)


def candidates(similarity: torch.Tensor) -> torch.Tensor:
    """[queries, items] -> [queries, at most 16] items, best first; the first of equals first."""
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :RERANKED]


def result(similarity: torch.Tensor, match: torch.Tensor, hits: torch.Tensor, gallery: int) -> RetrievalResult:
    """One direction: `similarity` and `hits` [queries, items], `match` [queries, candidates] in the order of `candidates`."""
    ranked = candidates(similarity)
    found = hits.gather(1, ranked)
    # Stable: equal match probabilities stay in the order of similarity.
    reranked = found.gather(1, match.argsort(dim=1, descending=True, stable=True))
    return RetrievalResult(
        r1=recall(found, 1),
        r5=recall(found, 5),
        r10=recall(found, 10),
        r1_rerank=recall(reranked, 1),
        chance_r1=100 * float(hits.double().mean()),
        gallery=gallery,
    )


def recall(found: torch.Tensor, k: int) -> float:
    """[queries, candidates] bool, best first -> percentage of queries with a hit among the first k."""
    return 100 * float(found[:, :k].any(dim=1).double().mean())
