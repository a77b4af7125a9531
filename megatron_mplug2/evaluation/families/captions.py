"""Captions of pictures and clips, judged against all their references."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_mplug2.checkpoint.together import from_rank_0, together
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.evaluation_batches import EvaluationBatch
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Record
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction, Score
from megatron_mplug2.evaluation.gather import gather_in_order
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import EncodedMedia
from megatron_mplug2.evaluation.metrics.captions import CaptionScores, caption_scores
from megatron_mplug2.evaluation.metrics.java import require_java
from megatron_mplug2.evaluation.progress import EvaluationProgress


@dataclass(frozen=True, kw_only=True)
class _Caption:
    index: int
    said: str
    references: tuple[str, ...]


class Captioning:
    what = "caption"

    def __init__(self, speaker: Speaker, manifest: Manifest, task: Task) -> None:
        """Collective over the world. Raises UserError where rank 0 has no Java: better now than after the captions are made."""
        self._speaker, self._manifest, self._task = speaker, manifest, task
        self._topology = speaker.inference.context.topology
        self._captions: list[_Caption] = []
        with together("count caption scores"):
            if self._topology.rank == 0:
                require_java()

    def fault(self, index: int, record: Record) -> str | None:
        return caption_fault(record)

    def add(self, batch: EvaluationBatch, media: EncodedMedia, records: Sequence[Record]) -> None:
        indices = batch.indices.tolist()
        said = self._speaker.captions(media, self._task, indices)
        self._captions += [
            _Caption(index=index, said=text, references=record.captions) for index, text, record in zip(indices, said, records, strict=True)
        ]

    def findings(self, progress: EvaluationProgress) -> Findings:
        captions = gather_in_order(self._captions, self._topology.data_group)
        if not captions:
            return Findings(scores=(), predictions=())
        scores: CaptionScores | None = None
        with progress.stage(f"score {len(captions)} captions"), together("count caption scores"):
            if self._topology.rank == 0:
                scores = caption_scores([one.said for one in captions], [one.references for one in captions])
        scores = from_rank_0(scores)
        assert scores is not None
        predictions = (
            Prediction(
                index=one.index,
                key=self._manifest.entry(one.index).key,
                kind=Kind.CAPTION,
                asked="",
                said=one.said,
                references=one.references,
                score=score,
            )
            for one, score in zip(captions, scores.each_cider, strict=True)
        )
        notes = () if scores.without_spice is None else (scores.without_spice,)
        return Findings(scores=tuple(_named(scores)), predictions=tuple(predictions), notes=notes)


def caption_fault(record: Record) -> str | None:
    """Why a sample's captions cannot be references."""
    if not record.captions:
        return "no caption to compare with"
    return "an empty caption" if any(map(is_blank, record.captions)) else None


def _named(scores: CaptionScores) -> Iterator[Score]:
    yield Score(name="CIDEr", value=scores.cider)
    for length, value in enumerate(scores.bleu, 1):
        yield Score(name=f"BLEU-{length}", value=value)
    yield Score(name="METEOR", value=scores.meteor)
    yield Score(name="ROUGE-L", value=scores.rouge_l)
    if scores.spice is not None:
        yield Score(name="SPICE", value=scores.spice)
