"""Boxes of what phrases speak of, written as numbers and read back strictly: what is no box is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.coordinates import Box, box_text, fault_of, in_square, read_box
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.evaluation_batches import EvaluationBatch, last_phase
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction, Score
from megatron_mplug2.evaluation.gather import gather_in_order
from megatron_mplug2.evaluation.generation.settings import Decoding, Mode
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference
from megatron_mplug2.evaluation.metrics.boxes import box_accuracy, intersection_over_union
from megatron_mplug2.evaluation.progress import EvaluationProgress

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
"""Stands for what is no box: it overlaps nothing."""

CONSTANTS = 200
"""True boxes that are tried as the answer to everything, spread over the split."""


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """A phrase with what the model says of it."""

    index: int
    """Sample in the manifest of the split."""
    phrase: str
    said: str
    box: Box | None
    """What was said, in pixels of the square that the model saw; None where it is no box."""
    truth: Box
    """Likewise, not rounded."""
    part: str
    """Of the split, where the corpus has several: testA, testB."""


class Grounder:
    """Asks a model for boxes, in the likeliest tokens one by one [M1]."""

    def __init__(self, inference: Inference, config: RunConfig, manifest: Manifest) -> None:
        tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
        self._speaker = Speaker(inference, tokenizer, config, Decoding(mode=Mode.GREEDY, beams=1))
        self._manifest, self.resolution = manifest, last_phase(config, Task.IMAGE_TEXT).resolution

    def boxes(self, indices: Sequence[int], media: EncodedMedia) -> list[Grounded]:
        """Of all phrases about the samples `indices`, whose pictures are the rows of `media`. A box that is not in its picture is passed
        over."""
        asked = [
            (row, index, record.attributes.get("split", ""), region.box, phrase)
            for row, index in enumerate(indices)
            for record in [self._manifest.record(index)]
            for region in record.regions
            if fault_of(region.box, self._manifest.facts(index)) is None
            for phrase in region.phrases
        ]
        rows, phrases = [row for row, *_ in asked], [phrase for *_, phrase in asked]
        said = self._speaker.boxes(media, rows, phrases, [index for _, index, *_ in asked], self.resolution) if asked else []
        return [
            Grounded(
                index=index,
                phrase=phrase,
                said=text,
                box=read_box(text, self.resolution),
                truth=in_square(box, self._manifest.facts(index), FULL_VIEW, self.resolution),
                part=part,
            )
            for (_, index, part, box, phrase), text in zip(asked, said, strict=True)
        ]


class Grounding:
    what = "find what phrases speak of"

    def __init__(self, inference: Inference, config: RunConfig, manifest: Manifest) -> None:
        self._grounder, self._manifest = Grounder(inference, config, manifest), manifest
        self._group = inference.context.topology.data_group
        self._found: list[Grounded] = []

    def fault(self, index: int, record: Record) -> str | None:
        for region in record.regions:
            if not region.phrases or any(map(is_blank, region.phrases)):
                return f"an empty phrase about the box {list(region.box)}"
            fault = fault_of(region.box, self._manifest.facts(index))
            if fault is not None:
                return f"{region.phrases[0]!r}: {fault}"
        return None

    def add(self, batch: EvaluationBatch, media: EncodedMedia, records: Sequence[Record]) -> None:
        self._found += self._grounder.boxes(batch.indices.tolist(), media)

    def findings(self, progress: EvaluationProgress) -> Findings:
        found = gather_in_order(self._found, self._group)
        if not found:
            return Findings(scores=(), predictions=())
        overlaps = _overlaps(found).tolist()
        predictions = (self._prediction(one, 100 * overlap) for one, overlap in zip(found, overlaps, strict=True))
        lost = sum(one.box is None for one in found)
        notes = (f"{lost:,} of {len(found):,} phrases got an answer that is no box; it counts as wrong",) if lost else ()
        return Findings(scores=box_scores(found), predictions=tuple(predictions), notes=notes)

    def _prediction(self, one: Grounded, overlap: float) -> Prediction:
        return Prediction(
            index=one.index,
            key=self._manifest.entry(one.index).key,
            kind=Kind.BOX,
            asked=one.phrase,
            said=one.said,
            references=(box_text(one.truth, self._grounder.resolution),),
            score=overlap,
        )


def accuracy(found: Sequence[Grounded]) -> float:
    """Percentage of phrases whose box overlaps the true one by half or more."""
    return box_accuracy(_said(found), _truth(found))


def box_scores(found: Sequence[Grounded]) -> tuple[Score, ...]:
    """Accuracy over all, and over each part of the split where there are several; and the mean overlap."""
    parts = sorted({one.part for one in found})
    scores = [_score("accuracy at IoU 0.5", found)]
    if len(parts) > 1:
        scores += [_score(f"accuracy at IoU 0.5: {part}", [one for one in found if one.part == part]) for part in parts]
    return (*scores, Score(name="mean IoU", value=100 * float(_overlaps(found).mean())))


def _score(name: str, found: Sequence[Grounded]) -> Score:
    """Chance: whoever always gives the same box, and the best one among some of the true ones and their mean."""
    truth = _truth(found)
    constants = torch.cat([truth.mean(dim=0, keepdim=True), truth[:: -(-len(truth) // CONSTANTS)]])
    return Score(name=name, value=accuracy(found), chance=max(box_accuracy(one.expand_as(truth), truth) for one in constants))


def _overlaps(found: Sequence[Grounded]) -> torch.Tensor:
    return intersection_over_union(_said(found), _truth(found))


def _said(found: Sequence[Grounded]) -> torch.Tensor:
    return torch.tensor([one.box or NO_BOX for one in found], dtype=torch.float64)


def _truth(found: Sequence[Grounded]) -> torch.Tensor:
    return torch.tensor([one.truth for one in found], dtype=torch.float64)
