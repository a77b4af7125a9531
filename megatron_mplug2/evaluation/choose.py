"""The likeliest of a closed list for files that a person names, with their probabilities, by the evaluation's own classifier."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.class_list import ClassList
from megatron_mplug2.data.views import EvaluationView
from megatron_mplug2.evaluation.choice import Choice, Item
from megatron_mplug2.evaluation.classify import DecoderClassifier
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.media_files import BATCH, Fault, Said, decoded_file, input_of
from megatron_mplug2.evaluation.metrics.classes import mean_numbers

SHOWN = 5
"""Most classes that are told of an item."""


class Chooser:
    def __init__(self, inference: Inference, choice: Choice) -> None:
        self._inference, self._choice = inference, choice
        self._classifiers: dict[Task, DecoderClassifier] = {}

    def chosen(self, items: Sequence[Item]) -> Iterator[Said | Fault]:
        """In the order of the items. Raises UserError for a class that the decoder cannot say."""
        for task, group in groupby(items, key=lambda item: item.task):
            together = list(group)
            for start in range(0, len(together), BATCH):
                batch = together[start : start + BATCH]
                found = self._texts(batch) if task is Task.TEXT else self._media(task, batch)
                for item, one in zip(batch, found, strict=True):
                    yield one if isinstance(one, Fault) else Said(name=item.name, text=self._told(task, one))

    def _texts(self, items: Sequence[Item]) -> list[torch.Tensor | Fault]:
        return list(self._classifier(Task.TEXT).of_texts([item.record for item in items]))

    def _media(self, task: Task, items: Sequence[Item]) -> list[torch.Tensor | Fault]:
        """Of each its mean over all views, [classes], or why one of its views cannot be had."""
        views = self._choice.views
        sums: dict[int, torch.Tensor] = {}
        faults: dict[int, Fault] = {}
        for view in views:
            seen: dict[int, torch.Tensor] = {}
            for place, item in enumerate(items):
                pixels = self._pixels(item, view)
                if isinstance(pixels, Fault):
                    faults[place] = pixels
                else:
                    seen[place] = pixels
            if seen:
                rows = self._classifier(task).of_media(torch.stack(list(seen.values())), [items[place].record for place in seen])
                for place, row in zip(seen, rows, strict=True):
                    sums[place] = sums.get(place, torch.zeros_like(row)) + row
        return [faults[place] if place in faults else sums[place] / len(views) for place in range(len(items))]

    def _pixels(self, item: Item, view: EvaluationView) -> torch.Tensor | Fault:
        """[3, T, R, R] uint8, the pictures of a pair one after the other."""
        form, frames = input_of(self._choice.run, item.task), []
        for file in item.files:
            decoded = decoded_file(file, form, view)
            if isinstance(decoded, Fault):
                return decoded
            frames.append(decoded.pixels)
        return torch.cat(frames, dim=1)

    def _classifier(self, task: Task) -> DecoderClassifier:
        if task not in self._classifiers:
            self._classifiers[task] = DecoderClassifier(self._inference, self._choice.run, self._choice.labelling(task))
        return self._classifiers[task]

    def _told(self, task: Task, row: torch.Tensor) -> str:
        labelling = self._choice.labelling(task)
        if labelling.family.classifies and labelling.classes.numbers is not None:
            (number,) = mean_numbers(row[None], labelling.classes)
            return f"{number:g}"
        return likeliest(row, labelling.classes)


def likeliest(row: torch.Tensor, classes: ClassList) -> str:
    """The classes of highest probability in `row` [classes], of equals the first of the list."""
    values, places = row.sort(descending=True, stable=True)
    best = zip(values[:SHOWN].tolist(), places[:SHOWN].tolist(), strict=True)
    return ", ".join(f"{classes.names[place]} {100 * value:.1f} %" for value, place in best)
