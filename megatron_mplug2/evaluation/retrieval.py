"""Retrieval in both directions: by the contrastive similarity, then with the best candidates re-ranked by the matching head."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_mplug2.data.batch import PAD
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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the hits of one sample stand by similarity, from 1 on; equals count as before it."""

    of_media: int
    """Of a picture or clip that is a hit, for the sample's text."""
    of_text: int
    """Of a text that is a hit, for its picture or clip."""
    first_text: int
    """Sample whose text comes first for the picture or clip."""


class Gallery:
    """Pictures or clips and a text of each. Every data-parallel rank adds its own samples; a score is then found by all together.

    Visual tokens stay where they were made. Texts are short: every rank encodes all of them.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._group: dist.ProcessGroup = inference.context.topology.data_group
        self._indices: list[torch.Tensor] = []
        self._media: list[EncodedMedia] = []
        self._texts: list[torch.Tensor] = []

    def add(self, indices: torch.Tensor, media: EncodedMedia, texts: torch.Tensor) -> None:
        """A batch of this rank's samples: `indices` [b] int64 in the manifest, their media, and their `texts` [b, L] int64 token ids."""
        self._indices.append(indices.to(self._inference.device))
        self._media.append(media)
        self._texts.append(texts.to(self._inference.device))

    def __bool__(self) -> bool:
        """Whether this rank has samples."""
        return bool(self._indices)

    def gather(self) -> "GatheredGallery":
        """The samples of all ranks; each needs at least one."""
        own = torch.cat(self._indices)
        vision = torch.cat([self._inference.vision_features(media) for media in self._media])
        vision, indices = gather_samples(vision, own, self._group)
        texts, _ = gather_samples(torch.cat(self._texts), own, self._group)
        text = _encode(self._inference, texts)
        return GatheredGallery(
            inference=self._inference,
            group=self._group,
            indices=indices,
            similarity=self._inference.text_features(text) @ vision.T,
            text=text,
            own=torch.searchsorted(indices, own),
            own_media=EncodedMedia(tokens=torch.cat([media.tokens for media in self._media], dim=1), length=self._media[0].length),
        )


def _encode(inference: Inference, texts: torch.Tensor) -> EncodedText:
    """[N, L] ids, without the columns that are padding in all."""
    longest = int((texts != PAD).sum(1).max())
    parts = [inference.encode_text(part) for part in texts[:, :longest].split(PAIRS_AT_ONCE)]
    return EncodedText(tokens=torch.cat([part.tokens for part in parts], dim=1), keys=torch.cat([part.keys for part in parts]))


@dataclass(frozen=True, kw_only=True)
class GatheredGallery:
    """N samples of all data-parallel ranks."""

    inference: Inference
    group: dist.ProcessGroup
    indices: torch.Tensor
    """[N] int64, of the samples in the manifest, rising."""
    similarity: torch.Tensor
    """[N texts, N media] fp32 cosines."""
    text: EncodedText
    """The N texts."""
    own: torch.Tensor
    """[n] int64, places among the N samples of those whose media lie on this rank."""
    own_media: EncodedMedia
    """Those n pictures or clips."""

    def score(self, identities: Identities) -> Retrieval:
        """Both directions; `identities` of the N samples in their order."""
        hits = identities.hits().to(self.similarity.device)
        gallery = len(identities.meaning.unique())
        t2v, v2t = candidates(self.similarity), candidates(self.similarity.T)
        count = len(self.indices)
        items = torch.arange(count, device=self.indices.device)[:, None]
        # One code for a pair of text and media, whichever direction asks for it.
        codes_t2v, codes_v2t = items * count + t2v, (v2t * count + items).contiguous()
        codes = torch.cat([codes_t2v.flatten(), codes_v2t.flatten()]).unique()
        match = self._match(codes // count, codes % count)
        return Retrieval(
            t2v=result(self.similarity, match[torch.searchsorted(codes, codes_t2v)], hits, gallery),
            v2t=result(self.similarity.T, match[torch.searchsorted(codes, codes_v2t)], hits, gallery),
        )

    def places(self, identities: Identities) -> dict[int, Place]:
        """Of every sample, by its index in the manifest; `identities` as for `score`."""
        hits = identities.hits().to(self.similarity.device)
        media, texts = first_hits(self.similarity, hits), first_hits(self.similarity.T, hits)
        first = self.indices[self.similarity.argmax(dim=0)]
        rows = zip(*(column.tolist() for column in (self.indices, media, texts, first)), strict=True)
        return {index: Place(of_media=of_media, of_text=of_text, first_text=text) for index, of_media, of_text, text in rows}

    def _match(self, texts: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """[P] match probability of pairs of samples; each is made where its picture or clip lies."""
        rows = torch.full_like(self.indices, -1)
        rows[self.own] = torch.arange(len(self.own), device=rows.device)
        own_rows = rows[media]
        match = torch.zeros(len(texts), device=texts.device)
        for part in (own_rows >= 0).nonzero()[:, 0].split(PAIRS_AT_ONCE):
            fused = self.inference.fuse(self.text.rows(texts[part]), self.own_media, own_rows[part])
            match[part] = self.inference.match_probability(fused)
        dist.all_reduce(match, group=self.group)
        return match


def candidates(similarity: torch.Tensor) -> torch.Tensor:
    """[queries, items] -> [queries, at most 16] items, best first; the first of equals first."""
    return similarity.argsort(dim=1, descending=True, stable=True)[:, :RERANKED]


def first_hits(similarity: torch.Tensor, hits: torch.Tensor) -> torch.Tensor:
    """[queries, items] and bool -> [queries] int64: the place of the best hit, after all others that are as similar."""
    best = similarity.masked_fill(~hits, -torch.inf).amax(dim=1, keepdim=True)
    return 1 + ((similarity >= best) & ~hits).sum(dim=1)


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
