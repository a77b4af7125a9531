"""What queries find among items: ranked by similarity, re-ranked by match probability, and counted."""

from dataclasses import dataclass

import torch

from megatron_mplug2.evaluation.metrics.recall import recall


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """One direction. Percentages, but for the gallery."""

    r1: float
    """Queries whose best item is a hit, by similarity."""
    r5: float
    """Queries with a hit among the best five."""
    r10: float
    r1_rerank: float
    """As `r1`, with the best candidates ordered by match probability; likewise below."""
    r5_rerank: float
    r10_rerank: float
    chance_r1: float
    """What `r1` is by blind choice: the mean share of hits in the gallery."""
    gallery: int
    """Distinct meanings among the items that are searched."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    t2v: RetrievalResult
    """A text finds its picture or clip."""
    v2t: RetrievalResult
    """A picture or clip finds a text of its own."""


@dataclass(frozen=True, kw_only=True)
class Identities:
    """What samples are, [N] int64 each. A hit is an item of equal media or equal meaning."""

    media: torch.Tensor
    meaning: torch.Tensor

    def hits(self) -> torch.Tensor:
        """[N, N] bool."""
        return (self.media[:, None] == self.media) | (self.meaning[:, None] == self.meaning)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the hits of one sample stand by similarity, from 1 on; equals count as before it."""

    of_media: int
    """Of a picture or clip that is a hit, for the sample's first text."""
    of_text: int
    """Of a text that is a hit, for its picture or clip."""
    first_text: int
    """Sample whose text comes first for the picture or clip."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What queries of one kind find among items of the other, Q queries and I items."""

    similar: torch.Tensor
    """[Q, at most k] items, best first by similarity."""
    reranked: torch.Tensor
    """The same items, best first by match probability."""
    hits: torch.Tensor
    """[Q, I] bool."""

    def result(self, gallery: int) -> RetrievalResult:
        found, reranked = self.hits.gather(1, self.similar), self.hits.gather(1, self.reranked)
        return RetrievalResult(
            r1=recall(found, 1),
            r5=recall(found, 5),
            r10=recall(found, 10),
            r1_rerank=recall(reranked, 1),
            r5_rerank=recall(reranked, 5),
            r10_rerank=recall(reranked, 10),
            chance_r1=100 * float(self.hits.double().mean()),
            gallery=gallery,
        )

    def places(self) -> list[int]:
        """Of each query's best hit after re-ranking, from 1 on; one more than there are candidates where none is a hit."""
        found = self.hits.gather(1, self.reranked)
        first = found.int().argmax(dim=1) + 1
        return torch.where(found.any(dim=1), first, found.shape[1] + 1).tolist()


@dataclass(frozen=True, kw_only=True)
class Ranking:
    t2v: Direction
    v2t: Direction
    gallery: int

    def retrieval(self) -> Retrieval:
        return Retrieval(t2v=self.t2v.result(self.gallery), v2t=self.v2t.result(self.gallery))


def candidates(similarity: torch.Tensor, most: int) -> torch.Tensor:
    """[queries, items] -> [queries, at most `most`] items, best first; the first of equals first."""
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :most]


def direction(ranked: torch.Tensor, match: torch.Tensor, hits: torch.Tensor) -> Direction:
    """`ranked` and the `match` probability of each, [queries, candidates]; `hits` [queries, items]."""
    # Stable: equal match probabilities stay in the order of similarity.
    order = match.argsort(dim=1, descending=True, stable=True)
    return Direction(similar=ranked, reranked=ranked.gather(1, order), hits=hits)
