"""Retrieval in both directions: by the contrastive similarity, then with the best candidates re-ranked by the matching head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_mplug2.data.batch import PAD
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.gather import gather_samples
from megatron_mplug2.evaluation.inference import EncodedMedia, EncodedText, Inference
from megatron_mplug2.evaluation.metrics.recall import first_hits
from megatron_mplug2.evaluation.ranking import Identities, Place, Ranking, candidates, direction

RERANKED = 16
"""Candidates of a query that the matching head re-ranks in the evaluation of a pretraining."""
PAIRS_AT_ONCE = 512
"""Fused pairs in one forward pass."""
_TEXTS = 1 << 20
"""More than a sample has texts: a text is known by its sample's index times this, and its place."""


def identities(manifest: Manifest, indices: torch.Tensor) -> Identities:
    """Of the samples `indices` [N] int64."""
    entries = [manifest.entry(index) for index in indices.tolist()]
    media, meaning = ([getattr(entry, name) for entry in entries] for name in ("media_id", "meaning_id"))
    return Identities(media=torch.tensor(media), meaning=torch.tensor(meaning))


class Gallery:
    """Pictures or clips and the texts of each. Every data-parallel rank adds its own samples; a score is then found by all together.

    Visual tokens stay where they were made. Texts are short: every rank encodes all of them.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._group: dist.ProcessGroup = inference.context.topology.data_group
        self._indices: list[torch.Tensor] = []
        self._media: list[EncodedMedia] = []
        self._texts: list[torch.Tensor] = []
        self._text_keys: list[torch.Tensor] = []

    def add(self, indices: torch.Tensor, media: EncodedMedia, texts: Sequence[torch.Tensor]) -> None:
        """A batch of this rank's samples: `indices` [b] int64 in the manifest, their media, and the `texts` of each, [n, L] int64 token ids
        (n may differ, L may not)."""
        device = self._inference.device
        self._indices.append(indices.to(device))
        self._media.append(media)
        self._texts += [rows.to(device) for rows in texts]
        for index, rows in zip(indices.tolist(), texts, strict=True):
            self._text_keys.append(index * _TEXTS + torch.arange(len(rows), device=device))

    def check(self, stream: str) -> None:
        """Raises UserError where this rank has no samples of the stream (a dotted key)."""
        if not self._indices:
            size = self._group.size()
            raise UserError(f"{stream}: fewer usable samples than layout.data={size} ranks; lower layout.data")

    def gather(self) -> "GatheredGallery":
        """The samples of all ranks; each needs at least one."""
        own = torch.cat(self._indices)
        vision = torch.cat([self._inference.vision_features(media) for media in self._media])
        vision, indices = gather_samples(vision, own, self._group)
        texts, keys = gather_samples(torch.cat(self._texts), torch.cat(self._text_keys), self._group)
        text = _encode(self._inference, texts)
        return GatheredGallery(
            inference=self._inference,
            group=self._group,
            indices=indices,
            similarity=self._inference.text_features(text) @ vision.T,
            text=text,
            owner=torch.searchsorted(indices, keys // _TEXTS),
            own=torch.searchsorted(indices, own),
            own_media=EncodedMedia(tokens=torch.cat([media.tokens for media in self._media], dim=1), length=self._media[0].length),
        )


def _encode(inference: Inference, texts: torch.Tensor) -> EncodedText:
    """[T, L] ids, without the columns that are padding in all."""
    longest = int((texts != PAD).sum(1).max())
    parts = [inference.encode_text(part) for part in texts[:, :longest].split(PAIRS_AT_ONCE)]
    return EncodedText(tokens=torch.cat([part.tokens for part in parts], dim=1), keys=torch.cat([part.keys for part in parts]))


@dataclass(frozen=True, kw_only=True)
class GatheredGallery:
    """N samples of all data-parallel ranks, with T texts."""

    inference: Inference
    group: dist.ProcessGroup
    indices: torch.Tensor
    """[N] int64, of the samples in the manifest, rising."""
    similarity: torch.Tensor
    """[T texts, N media] fp32 cosines."""
    text: EncodedText
    """The T texts, by rising sample."""
    owner: torch.Tensor
    """[T] int64, place among the N samples of the one that a text belongs to."""
    own: torch.Tensor
    """[n] int64, places among the N samples of those whose media lie on this rank."""
    own_media: EncodedMedia
    """Those n pictures or clips."""

    def rank(self, identities: Identities, most: int) -> Ranking:
        """Both directions, the best `most` candidates of a query re-ranked; `identities` of the N samples in their order. Collective."""
        hits = self._hits(identities)
        t2v, v2t = candidates(self.similarity, most), candidates(self.similarity.T, most)
        texts, count = self.similarity.shape
        # One code for a pair of text and media, whichever direction asks for it.
        codes_t2v = torch.arange(texts, device=t2v.device)[:, None] * count + t2v
        codes_v2t = (v2t * count + torch.arange(count, device=t2v.device)[:, None]).contiguous()
        codes = torch.cat([codes_t2v.flatten(), codes_v2t.flatten()]).unique()
        match = self._match(codes // count, codes % count)
        return Ranking(
            t2v=direction(t2v, match[torch.searchsorted(codes, codes_t2v)], hits),
            v2t=direction(v2t, match[torch.searchsorted(codes, codes_v2t)], hits.T),
            gallery=len(identities.meaning.unique()),
        )

    def places(self, identities: Identities) -> dict[int, Place]:
        """Of every sample with a text, by its index in the manifest; `identities` as for `rank`."""
        hits = self._hits(identities)
        samples, counts = self.owner.unique_consecutive(return_counts=True)
        first_texts = counts.cumsum(0) - counts
        media, texts = first_hits(self.similarity[first_texts], hits[first_texts]), first_hits(self.similarity.T, hits.T)[samples]
        first = self.indices[self.owner[self.similarity.argmax(dim=0)]][samples]
        rows = zip(*(column.tolist() for column in (self.indices[samples], media, texts, first)), strict=True)
        return {index: Place(of_media=of_media, of_text=of_text, first_text=text) for index, of_media, of_text, text in rows}

    def _hits(self, identities: Identities) -> torch.Tensor:
        """[T, N] bool."""
        return identities.hits().to(self.owner.device)[self.owner]

    def _match(self, texts: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """[P] match probability of pairs of a text and a sample; each is made where its picture or clip lies."""
        rows = torch.full_like(self.indices, -1)
        rows[self.own] = torch.arange(len(self.own), device=rows.device)
        own_rows = rows[media]
        match = torch.zeros(len(texts), device=texts.device)
        mine = (own_rows >= 0).nonzero()[:, 0]
        mine = mine[own_rows[mine].argsort(stable=True)]  # so that few pictures or clips are projected again in another part
        for part in mine.split(PAIRS_AT_ONCE):
            needed, places = own_rows[part].unique_consecutive(return_inverse=True)
            fused = self.inference.fuse(self.text.rows(texts[part]), self.own_media.rows(needed), places)
            match[part] = self.inference.match_probability(fused)
        dist.all_reduce(match, group=self.group)
        return match
