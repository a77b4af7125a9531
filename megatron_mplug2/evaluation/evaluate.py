"""The evaluation of a run: retrieval, captions and questions on a split, each sample counted once on any layout."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.data.loader import EvaluationBatch, evaluation_batches
from megatron_mplug2.data.manifest import Manifest, Record
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.captions import CaptionPrediction, CaptionResult, score_captions
from megatron_mplug2.evaluation.gather import gather_lists
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference
from megatron_mplug2.evaluation.progress import EvaluationProgress
from megatron_mplug2.evaluation.questions import MOTION, Answer, QuestionResult, reversed_in_time, score_answers, single_frame
from megatron_mplug2.evaluation.retrieval import Gallery, Identities, Retrieval
from megatron_mplug2.evaluation.speaker import Speaker

BATCH = 32
"""Pictures or clips that a rank encodes at once."""
RESULTS_NAME, PREDICTIONS_NAME = "evaluation.json", "predictions.jsonl"
UNTRAINED_NAME, UNTRAINED_PREDICTIONS_NAME = "evaluation-untrained.json", "predictions-untrained.jsonl"


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


@dataclass(frozen=True, kw_only=True)
class _StreamEvaluation:
    retrieval: Retrieval | None = None
    captions: tuple[CaptionPrediction, ...] = ()
    answers: tuple[Answer, ...] = ()


def evaluate(config: RunConfig) -> None:
    """Evaluates the run's latest checkpoint on its test split and writes `evaluation.json` and `predictions.jsonl` into the run folder.

    The work of every rank. Raises UserError for a layout with pipeline stages, a missing or damaged checkpoint, and a test split that is
    missing or has fewer samples than data-parallel ranks.
    """
    inference, step = model.trained(config)
    _evaluate_and_write(inference, config, step, RESULTS_NAME, PREDICTIONS_NAME)


def evaluate_untrained(config: RunConfig) -> None:
    """The same with the weights that training starts from, for comparison; writes `evaluation-untrained.json` and its predictions."""
    _evaluate_and_write(model.untrained(config), config, 0, UNTRAINED_NAME, UNTRAINED_PREDICTIONS_NAME)


def evaluate_stage(inference: Inference, config: RunConfig, split: Split, progress: EvaluationProgress) -> Evaluation:
    """Evaluates a model on a split. Collective over the world; raises UserError as `evaluate`."""
    tasks = [task for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT) if split.folders(config.data).of(task)]
    if not tasks:
        raise UserError(f"data.{split} names no folders of pictures or clips: there is nothing to evaluate")
    speaker = Speaker(inference, Tokenizer(config.data.vocab, config.model.text.vocab_size), config)
    none = _StreamEvaluation()
    streams = {task: _Stream(speaker, config, split, task).evaluate(progress) for task in tasks}
    image, video = streams.get(Task.IMAGE_TEXT, none), streams.get(Task.VIDEO_TEXT, none)
    answers = image.answers + video.answers
    results = Results(
        retrieval=RetrievalResults(image=image.retrieval, video=video.retrieval),
        qa=score_answers(answers) if answers else None,
        caption=score_captions(video.captions) if video.captions else None,
    )
    return Evaluation(results=results, captions=video.captions, answers=answers)


class _Stream:
    """The evaluation of one task's samples."""

    def __init__(self, speaker: Speaker, config: RunConfig, split: Split, task: Task) -> None:
        self._speaker, self._config, self._split, self._task = speaker, config, split, task
        self._inference = speaker.inference
        self._topology = speaker.inference.context.topology
        self._manifest: Manifest = open_stream(config.data, split, task)
        if len(self._manifest) < self._topology.data_size:
            raise UserError(
                f"data.{split}.{task} has {len(self._manifest)} samples for layout.data={self._topology.data_size} ranks: lower layout.data"
            )
        self._gallery = Gallery(self._inference)
        self._captions: list[CaptionPrediction] = []
        self._answers: list[Answer] = []

    def evaluate(self, progress: EvaluationProgress) -> _StreamEvaluation:
        topology = self._topology
        batches = evaluation_batches(self._config, self._split, self._task, topology.data_rank, topology.data_size, BATCH)
        own = -(-len(self._manifest) // topology.data_size)
        for batch in progress.over(batches, f"{self._task}: encode, caption, answer", -(-own // BATCH)):
            self._add(batch)
        similarity, indices = self._gallery.similarities()
        progress.note(f"{self._task}: rank {len(indices)} samples both ways")
        return _StreamEvaluation(
            retrieval=self._gallery.score(similarity, indices, identities(self._manifest, indices)),
            captions=self._everyones(self._captions),
            answers=self._everyones(self._answers),
        )

    def _everyones[Said: (CaptionPrediction, Answer)](self, own: list[Said]) -> tuple[Said, ...]:
        return tuple(sorted(gather_lists(own, self._topology.data_group), key=lambda one: one.index))

    def _add(self, batch: EvaluationBatch) -> None:
        indices = batch.indices.tolist()
        records = [self._manifest.record(index) for index in indices]
        encoded = self._inference.encode_media(batch.media, self._task)
        texts = self._speaker.tokens([first_caption(record) for record in records])
        self._gallery.add(batch.indices, encoded, self._inference.encode_text(texts))
        if self._task is Task.VIDEO_TEXT:
            said = self._speaker.captions(encoded, self._task)
            self._captions += [
                CaptionPrediction(index=index, said=text, references=record.captions, attributes=record.attributes)
                for index, text, record in zip(indices, said, records, strict=True)
            ]
        self._answers += self._ask(batch, encoded, records)
