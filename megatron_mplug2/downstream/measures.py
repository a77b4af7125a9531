"""A task's own figure, beside the losses of a validation: right answers, classes or boxes, or CIDEr of captions. Retrieval's are there
already."""

from collections.abc import Iterator
from typing import TypeVar

import torch

from megatron_mplug2.config.downstream import FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.downstream.classes import class_figures, measure_classes
from megatron_mplug2.evaluation.captions import CaptionPrediction, cider
from megatron_mplug2.evaluation.families.grounding import Grounded, Grounder, accuracy
from megatron_mplug2.evaluation.gather import gather_lists
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.metrics.exact_match import same
from megatron_mplug2.evaluation.questions import Answer
from megatron_mplug2.evaluation.validation import RETRIEVAL, first_batches
from megatron_mplug2.objectives.weighted import of_task, weighted
from megatron_mplug2.training.interface import TrainingEngine

BATCH = 32
"""Pictures or clips that a rank encodes at once."""

Said = TypeVar("Said", CaptionPrediction, Answer, Grounded)


def measure(engine: TrainingEngine) -> dict[str, float]:
    """Of the samples that a validation takes: `video_qa/exact` in percent, or `video_caption/cider`, and so on by family.

    Nothing with pipeline stages, where the model cannot speak, nothing for retrieval, and nothing where no sample has a question or
    caption. Collective over the world; raises UserError for unusable data.
    """
    config = engine.config
    if config.downstream is None or engine.topology.pipeline_size > 1:
        return {}
    family = config.downstream.family
    if family.classifies:
        return measure_classes(engine, family, config.training.validation_batches * config.training.global_batch)
    look = _Look(engine, config, family.task)
    if family.kind is FamilyKind.QA:
        answers = look.together(list(look.answers()))
        right = [same(one.said, one.question.answer) for one in answers]
        return {f"{family}/exact": 100 * sum(right) / len(right)} if right else {}
    if family.kind is FamilyKind.CAPTION:
        captions = look.together(list(look.captions()))
        return {f"{family}/cider": 100 * cider(captions)} if captions else {}  # as papers and `mplug2 evaluate` have it
    if family.kind is FamilyKind.GROUNDING:
        boxes = look.together(list(look.boxes()))
        return {f"{family}/accuracy": accuracy(boxes)} if boxes else {}
    return {}


def figures(config: RunConfig) -> list[str]:
    """Names of all that a validation of a run with a family tells: losses, retrieval, and what `measure` does."""
    if config.downstream is None:
        return []
    family = config.downstream.family
    names = [f"{family.task}/loss/{objective}" for objective in of_task(weighted(config.objectives), family.task)]
    if config.layout.pipeline > 1:
        return names
    if family.classifies:
        return names + class_figures(config)
    of_kind = {
        FamilyKind.QA: [f"{family}/exact"],
        FamilyKind.CAPTION: [f"{family}/cider"],
        FamilyKind.GROUNDING: [f"{family}/accuracy"],
        FamilyKind.RETRIEVAL: [f"{family.task}/retrieval/{name}" for name in RETRIEVAL],
    }
    return names + of_kind[family.kind]


class _Look:
    """The model on the first samples of the validation split, this rank's share of them."""

    def __init__(self, engine: TrainingEngine, config: RunConfig, task: Task) -> None:
        self._config, self._task, self._topology = config, task, engine.topology
        tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
        self._speaker = Speaker(Inference(engine.stage, engine.context), tokenizer, config)
        self._manifest: Manifest = open_stream(config.data, Split.VALIDATION, task)
        self._samples = config.training.validation_batches * config.training.global_batch

    def answers(self) -> Iterator[Answer]:
        for indices, pixels in self._batches():
            asked = [(row, question) for row, index in enumerate(indices) for question in self._manifest.record(index).questions]
            if not asked:
                continue
            media = self._speaker.inference.encode_media(pixels, self._task)
            rows, questions = [row for row, _ in asked], [question.question for _, question in asked]
            said = self._speaker.answers(media, rows, questions, [indices[row] for row in rows])
            for (row, question), answer in zip(asked, said, strict=True):
                yield Answer(index=indices[row], question=question, said=answer)

    def captions(self) -> Iterator[CaptionPrediction]:
        for indices, pixels in self._batches():
            media = self._speaker.inference.encode_media(pixels, self._task)
            for index, said in zip(indices, self._speaker.captions(media, self._task, indices), strict=True):
                record = self._manifest.record(index)
                if record.captions:
                    yield CaptionPrediction(index=index, said=said, references=record.captions, attributes=record.attributes)

    def boxes(self) -> Iterator[Grounded]:
        grounder = Grounder(self._speaker.inference, self._config, self._manifest)
        for indices, pixels in self._batches():
            yield from grounder.boxes(indices, self._speaker.inference.encode_media(pixels, self._task))

    def together(self, own: list[Said]) -> list[Said]:
        """Of all data-parallel ranks, in order of sample."""
        return sorted(gather_lists(own, self._topology.data_group), key=lambda one: one.index)

    def _batches(self) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Indices and pixels, the same samples at any layout."""
        for batch in first_batches(self._config, self._task, self._topology, self._samples, BATCH):
            kept = batch.indices < self._samples
            if kept.any():
                yield batch.indices[kept].tolist(), batch.media[kept]
