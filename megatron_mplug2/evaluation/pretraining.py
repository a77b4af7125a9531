"""The evaluation of a pretraining: retrieval, captions and questions of pictures and clips, each sample counted once on any layout."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import EvaluationBatch, LeftOut, evaluation_batches
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Question, Record
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.captions import CaptionPrediction, CaptionResult, score_captions
from megatron_mplug2.evaluation.gather import gather_in_order
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference
from megatron_mplug2.evaluation.progress import EvaluationProgress
from megatron_mplug2.evaluation.questions import MOTION, Answer, QuestionResult, reversed_in_time, score_answers, single_frame
from megatron_mplug2.evaluation.ranking import Retrieval
from megatron_mplug2.evaluation.retrieval import RERANKED, Gallery, identities
from megatron_mplug2.evaluation.samples import SeenSample, ShownSample, chosen, seen, shown_samples

BATCH = 32
"""Pictures or clips that a rank encodes at once."""


@dataclass(frozen=True, kw_only=True)
class RetrievalResults:
    image: Retrieval | None
    video: Retrieval | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that is measured; None where the split has no such samples."""

    retrieval: RetrievalResults
    qa: QuestionResult | None
    """Of pictures and clips together."""
    caption: CaptionResult | None
    """Of clips."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results with what the model said, in order of sample; the same on every rank."""

    results: Results
    captions: tuple[CaptionPrediction, ...]
    answers: tuple[Answer, ...]
    """Questions about pictures, then about clips."""
    left_out: tuple[LeftOut, ...]
    """Samples that cannot be decoded; nothing counts them."""
    shown: tuple[ShownSample, ...]
    """A few pictures, then clips, to look at."""


@dataclass(frozen=True, kw_only=True)
class _StreamEvaluation:
    retrieval: Retrieval | None = None
    captions: tuple[CaptionPrediction, ...] = ()
    answers: tuple[Answer, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    shown: tuple[ShownSample, ...] = ()


def evaluate_pretraining(inference: Inference, config: RunConfig, split: Split, progress: EvaluationProgress) -> Evaluation:
    """Evaluates a model on a split. Collective over the world; raises UserError as `evaluate.evaluate`."""
    tasks = [task for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT) if split.folders(config.data).of(task)]
    if not tasks:
        raise UserError(f"data.{split} names no folders of pictures or clips: there is nothing to evaluate")
    speaker = Speaker(inference, Tokenizer(config.data.vocab, config.model.text.vocab_size), config)
    none = _StreamEvaluation()
    opened = {task: _Stream(speaker, config, split, task) for task in tasks}  # all, before the first one takes its hours
    streams = {task: stream.evaluate(progress) for task, stream in opened.items()}
    image, video = streams.get(Task.IMAGE_TEXT, none), streams.get(Task.VIDEO_TEXT, none)
    answers = image.answers + video.answers
    results = Results(
        retrieval=RetrievalResults(image=image.retrieval, video=video.retrieval),
        qa=score_answers(answers) if answers else None,
        caption=score_captions(video.captions) if video.captions else None,
    )
    left_out, to_show = image.left_out + video.left_out, image.shown + video.shown
    return Evaluation(results=results, captions=video.captions, answers=answers, left_out=left_out, shown=to_show)


class _Stream:
    """The evaluation of one task's samples."""

    def __init__(self, speaker: Speaker, config: RunConfig, split: Split, task: Task) -> None:
        self._speaker, self._config, self._split, self._task = speaker, config, split, task
        self._inference = speaker.inference
        self._topology = speaker.inference.context.topology
        self._manifest: Manifest = open_stream(config.data, split, task)
        self._gallery = Gallery(self._inference)
        self._captions: list[CaptionPrediction] = []
        self._answers: list[Answer] = []
        self._left_out: list[LeftOut] = []
        self._chosen, self._seen = chosen(len(self._manifest)), list[SeenSample]()

    def evaluate(self, progress: EvaluationProgress) -> _StreamEvaluation:
        topology = self._topology
        batches = evaluation_batches(
            self._config, self._split, self._task, data_rank=topology.data_rank, data_size=topology.data_size, batch=BATCH
        )
        count = -(-len(range(topology.data_rank, len(self._manifest), topology.data_size)) // BATCH)
        for batch in progress.over(batches, f"{self._task}: encode, caption, answer", count):
            self._left_out += batch.left_out
            if len(batch.indices):
                self._add(batch)
        self._gallery.check(f"data.{self._split}.{self._task}")
        gallery = self._gallery.gather()
        ids = identities(self._manifest, gallery.indices)
        with progress.stage(f"{self._task}: re-rank {len(gallery.indices)} samples both ways"):
            retrieval = gallery.rank(ids, RERANKED).retrieval()
        group = topology.data_group
        captions, answers = gather_in_order(self._captions, group), gather_in_order(self._answers, group)
        return _StreamEvaluation(
            retrieval=retrieval,
            captions=captions,
            answers=answers,
            left_out=gather_in_order(self._left_out, group),
            shown=shown_samples(self._task, self._manifest, gather_in_order(self._seen, group), captions, answers, gallery.places(ids)),
        )

    def _add(self, batch: EvaluationBatch) -> None:
        media = self._inference.encode_media(batch.media, self._task)
        self._gallery.add(batch.indices, media, batch.captions[:, None].unbind())
        indices = batch.indices.tolist()
        self._seen += [seen(index, batch.media[row]) for row, index in enumerate(indices) if index in self._chosen]
        records = [self._manifest.record(index) for index in indices]
        if self._task is Task.VIDEO_TEXT:
            self._captions += self._describe(indices, media, records)
        self._answers += self._ask(batch, media, records)

    def _describe(self, indices: list[int], media: EncodedMedia, records: list[Record]) -> Iterator[CaptionPrediction]:
        for index, said, record in zip(indices, self._speaker.captions(media, self._task, indices), records, strict=True):
            if record.captions:
                yield CaptionPrediction(index=index, said=said, references=record.captions, attributes=record.attributes)

    def _ask(self, batch: EvaluationBatch, media: EncodedMedia, records: list[Record]) -> Iterator[Answer]:
        asked = [(row, question) for row, record in enumerate(records) for question in record.questions]
        turning = [(row, question) for row, question in asked if self._task is Task.VIDEO_TEXT and question.kind == MOTION]
        backwards = dict(zip(turning, self._say(batch, reversed_in_time(batch.media), turning), strict=True))
        frozen = dict(zip(turning, self._say(batch, single_frame(batch.media), turning), strict=True))
        for (row, question), said in zip(asked, self._say(batch, media, asked), strict=True):
            yield Answer(
                index=int(batch.indices[row]),
                question=question,
                said=said,
                said_reversed=backwards.get((row, question)),
                said_single_frame=frozen.get((row, question)),
            )

    def _say(self, batch: EvaluationBatch, media: EncodedMedia | torch.Tensor, asked: list[tuple[int, Question]]) -> list[str]:
        """Answers to questions about rows of media, or of pixels that are yet to be encoded."""
        if not asked:
            return []
        encoded = media if isinstance(media, EncodedMedia) else self._inference.encode_media(media, self._task)
        rows, questions = [row for row, _ in asked], [question.question for _, question in asked]
        return self._speaker.answers(encoded, rows, questions, batch.indices[rows].tolist())


def prediction_lines(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """A JSON object for each caption and each answer; `index` is the sample in its stream of the split."""
    for caption in evaluation.captions:
        yield {"kind": "caption"} | asdict(caption)
    for answer in evaluation.answers:
        yield {"kind": "answer"} | asdict(answer)
