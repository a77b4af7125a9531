"""Retrieval of pictures and clips by texts and of texts by them, over all texts of a split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import EvaluationBatch
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.families.captions import caption_fault
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction, Score
from megatron_mplug2.evaluation.gather import gather_in_order
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference
from megatron_mplug2.evaluation.progress import EvaluationProgress
from megatron_mplug2.evaluation.ranking import Direction, RetrievalResult
from megatron_mplug2.evaluation.retrieval import Gallery, identities

RERANKED = {Task.IMAGE_TEXT: 256, Task.VIDEO_TEXT: 128}  # [M1] k_test
"""Candidates of a query that the matching head re-ranks."""
_MEDIA = {Task.IMAGE_TEXT: "picture", Task.VIDEO_TEXT: "clip"}


@dataclass(frozen=True, kw_only=True)
class _Texts:
    index: int
    captions: tuple[str, ...]


class MediaRetrieval:
    what = "encode"

    def __init__(self, inference: Inference, config: RunConfig, manifest: Manifest, task: Task, stream: str) -> None:
        """`stream`: the dotted key of the split's stream."""
        self._manifest, self._task, self._stream = manifest, task, stream
        self._tokenizer, self._length = Tokenizer(config.data.vocab, config.model.text.vocab_size), config.data.text_length
        self._group = inference.context.topology.data_group
        self._gallery = Gallery(inference)
        self._texts: list[_Texts] = []

    def fault(self, index: int, record: Record) -> str | None:
        return caption_fault(record)

    def add(self, batch: EvaluationBatch, media: EncodedMedia, records: Sequence[Record]) -> None:
        self._gallery.add(batch.indices, media, [self._tokens(record.captions) for record in records])
        self._texts += [
            _Texts(index=index, captions=record.captions) for index, record in zip(batch.indices.tolist(), records, strict=True)
        ]

    def findings(self, progress: EvaluationProgress) -> Findings:
        self._gallery.check(self._stream)
        texts = gather_in_order(self._texts, self._group)
        gallery = self._gallery.gather()
        count = sum(len(one.captions) for one in texts)
        with progress.stage(f"re-rank {count} texts and {len(texts)} {_MEDIA[self._task]}s"):
            ranking = gallery.rank(identities(self._manifest, gallery.indices), RERANKED[self._task])
        found, media = ranking.retrieval(), _MEDIA[self._task]
        return Findings(
            scores=(*_named(f"text finds {media}", found.t2v), *_named(f"{media} finds text", found.v2t)),
            predictions=tuple(self._predictions(texts, ranking.t2v, ranking.v2t)),
        )

    def _tokens(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._tokenizer.encode(caption, self._length) for caption in captions]))

    def _predictions(self, texts: Sequence[_Texts], t2v: Direction, v2t: Direction) -> Iterator[Prediction]:
        keys = [self._manifest.entry(one.index).key for one in texts]
        captions = [caption for one in texts for caption in one.captions]
        by_text = iter(zip(t2v.reranked[:, 0].tolist(), t2v.places(), strict=True))
        by_media = zip(v2t.reranked[:, 0].tolist(), v2t.places(), strict=True)
        candidates = t2v.reranked.shape[1], v2t.reranked.shape[1]
        for one, key, (text, place) in zip(texts, keys, by_media, strict=True):
            for caption, (item, at) in zip(one.captions, by_text, strict=False):
                yield Prediction(
                    index=one.index,
                    key=key,
                    kind=Kind.TEXT_TO_MEDIA,
                    asked=caption,
                    said=keys[item],
                    references=(key,),
                    score=_score(at, candidates[0]),
                    found=texts[item].index,
                )
            yield Prediction(
                index=one.index,
                key=key,
                kind=Kind.MEDIA_TO_TEXT,
                asked="",
                said=captions[text],
                references=one.captions,
                score=_score(place, candidates[1]),
            )


def _score(place: int, candidates: int) -> float:
    return 100 / place if place <= candidates else 0.0


def _named(way: str, found: RetrievalResult) -> Iterator[Score]:
    """After re-ranking, then by similarity alone."""
    for suffix, values in (
        ("", (found.r1_rerank, found.r5_rerank, found.r10_rerank)),
        (", by similarity alone", (found.r1, found.r5, found.r10)),
    ):
        for k, value in zip((1, 5, 10), values, strict=True):
            yield Score(name=f"{way}, R@{k}{suffix}", value=value, chance=found.chance_r1 if k == 1 else None)
