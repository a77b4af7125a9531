"""Classes of pictures, clips, texts, and of sentences about pictures, from a closed list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import LeftOut
from megatron_mplug2.data.labelling import Labelling
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.views import evaluation_views
from megatron_mplug2.evaluation.class_batches import BATCH, ClassBatch, ClassSamples
from megatron_mplug2.evaluation.classify import Classifier
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction, Score
from megatron_mplug2.evaluation.gather import gather_in_order, gather_samples
from megatron_mplug2.evaluation.metrics.classes import chance, mean_numbers, measures_of, numbers_of, values
from megatron_mplug2.evaluation.progress import EvaluationProgress


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What is known of a sample beside its probabilities."""

    index: int
    asked: str
    label: str


class Classification:
    """The work of one rank. Raises nothing of its own: samples are checked by `fault` before."""

    def __init__(self, classifier: Classifier, labelling: Labelling, samples: ClassSamples, config: RunConfig) -> None:
        assert config.downstream is not None and config.downstream.classes is not None
        choice = config.downstream.classes
        self._classifier, self._labelling, self._samples = classifier, labelling, samples
        self._views, self._prompts = evaluation_views(choice.segments, choice.crops), choice.prompts
        self._sums: dict[int, torch.Tensor] = {}
        self._left_out: dict[int, LeftOut] = {}

    def fault(self, index: int, record: Record) -> str | None:
        gap = self._labelling.gap(record)
        return gap if gap is not None or self._labelling.place(record) is not None else self._labelling.not_listed(record)

    def run(self, progress: EvaluationProgress) -> None:
        """Sees every sample of this rank in every view. Not collective over data-parallel ranks."""
        for number, view in enumerate(self._views, 1):
            what = f"{self._labelling.family}: classify" + (f", view {number} of {len(self._views)}" if len(self._views) > 1 else "")
            total = -(-len(self._samples.own) // BATCH)
            for batch in progress.over(self._samples.classified(self._classifier, view), what, total):
                self._add(batch)

    def _add(self, batch: ClassBatch) -> None:
        self._left_out |= {one.index: one for one in batch.left_out}
        for index, row in zip(batch.indices, batch.probabilities, strict=True):
            self._sums[index] = self._sums.get(index, torch.zeros_like(row)) + row

    def left_out(self) -> list[LeftOut]:
        """Of this rank: what one view at least could not use."""
        return list(self._left_out.values())

    def findings(self, device: torch.device) -> Findings:
        """Over the samples of all ranks; collective over the world. `device` is where ranks meet."""
        group, classes = self._samples.topology.data_group, self._labelling.classes
        own = sorted(self._sums.keys() - self._left_out.keys())
        rows = torch.stack([self._sums[index] for index in own]) if own else torch.empty(0, len(classes.names))
        judged = gather_in_order([self._judged(index) for index in own], group)
        found, _ = gather_samples((rows / len(self._views)).to(device), torch.tensor(own, dtype=torch.int64), group)
        if not judged:
            return Findings(scores=(), predictions=())
        probabilities, labels = found.cpu(), [one.label for one in judged]
        scores = values(measures_of(self._labelling.family, classes), probabilities, labels, classes)
        return Findings(
            scores=tuple(Score(name=name, value=value, chance=chance(name, labels, classes)) for name, value in scores.items()),
            predictions=tuple(self._predictions(judged, probabilities)),
            notes=tuple(self._notes()),
        )

    def _judged(self, index: int) -> _Judged:
        record = self._samples.manifest.record(index)
        assert record.label is not None
        return _Judged(index=index, asked=self._labelling.asked(record), label=record.label)

    def _notes(self) -> Iterator[str]:
        if self._prompts:
            yield f"zero-shot, by VLC with {', '.join(map(repr, self._prompts))}"
        if len(self._views) > 1:
            yield f"probabilities are means over {len(self._views)} views"

    def _predictions(self, judged: Sequence[_Judged], probabilities: torch.Tensor) -> Iterator[Prediction]:
        for one, (said, score) in zip(judged, self._said(judged, probabilities), strict=True):
            yield Prediction(
                index=one.index,
                key=self._samples.manifest.entry(one.index).key,
                kind=Kind.CLASS,
                asked=one.asked,
                said=said,
                references=(one.label,),
                score=score,
            )

    def _said(self, judged: Sequence[_Judged], probabilities: torch.Tensor) -> Iterator[tuple[str, float]]:
        """The likeliest class, 100 where it is right; of numbers the mean, and how near it is in percent of the list's range."""
        classes = self._labelling.classes
        if classes.numbers is None:
            for one, place in zip(judged, probabilities.argmax(dim=1).tolist(), strict=True):
                yield classes.names[place], 100.0 * (classes.place(one.label) == place)
            return
        extent = max(classes.numbers) - min(classes.numbers)
        truth = numbers_of([one.label for one in judged])
        for number, right in zip(mean_numbers(probabilities, classes), truth, strict=True):
            yield f"{number:g}", max(100 * (1 - abs(number - right) / extent), 0.0)
