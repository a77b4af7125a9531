"""How good probabilities of classes are, by the measures that a family and its list of classes have."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import torch

from megatron_mplug2.config.downstream import Family, FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.class_list import ClassList, number_of
from megatron_mplug2.evaluation.metrics import glue
from megatron_mplug2.evaluation.metrics.top_k import top_k_accuracy


class Measure(StrEnum):
    TOP_1 = "top-1"
    TOP_5 = "top-5"
    ACCURACY = "accuracy"
    F1 = "F1"
    """Of the last of two classes."""
    MATTHEWS = "Matthews"
    PEARSON = "Pearson"
    SPEARMAN = "Spearman"


def measures_of(family: Family, classes: ClassList) -> tuple[Measure, ...]:
    """Of pictures and clips the top classes; of texts those of GLUE: correlations for numbers, F1 and Matthews beside accuracy for two
    classes (each of its tasks reports one or two of them); else accuracy."""
    if classes.numbers is not None:
        return Measure.PEARSON, Measure.SPEARMAN
    if family.kind is FamilyKind.ENTAILMENT:
        return (Measure.ACCURACY,)
    if family.task is Task.TEXT:
        return (Measure.ACCURACY, *((Measure.F1, Measure.MATTHEWS) if len(classes.names) == 2 else ()))
    return (Measure.TOP_1, *((Measure.TOP_5,) if len(classes.names) > 5 else ()))


def values(measures: Sequence[Measure], probabilities: torch.Tensor, labels: Sequence[str], classes: ClassList) -> dict[Measure, float]:
    """Percent. `probabilities` [n, classes] of n samples, n > 0, whose labels are in the list."""
    truth = [_place(label, classes) for label in labels]
    likeliest = probabilities.argmax(dim=1).tolist()

    def value(measure: Measure) -> float:
        match measure:
            case Measure.TOP_1 | Measure.TOP_5:
                return top_k_accuracy(probabilities, torch.tensor(truth), 1 if measure is Measure.TOP_1 else 5)
            case Measure.ACCURACY:
                return glue.accuracy(likeliest, truth)
            case Measure.F1:
                return glue.f1(likeliest, truth)
            case Measure.MATTHEWS:
                return glue.matthews(likeliest, truth)
            case Measure.PEARSON:
                return glue.pearson(mean_numbers(probabilities, classes), numbers_of(labels))
            case Measure.SPEARMAN:
                return glue.spearman(mean_numbers(probabilities, classes), numbers_of(labels))

    return {measure: value(measure) for measure in measures}


def chance(measure: Measure, labels: Sequence[str], classes: ClassList) -> float | None:
    """Percent of whoever always says the most frequent class; None for measures where that says nothing."""
    if measure not in (Measure.TOP_1, Measure.ACCURACY):
        return None
    return 100 * Counter(_place(label, classes) for label in labels).most_common(1)[0][1] / len(labels)


def mean_numbers(probabilities: torch.Tensor, classes: ClassList) -> list[float]:
    """[n] means of the classes' numbers by probability, to three digits: less would tie ranks, more is rounding."""
    assert classes.numbers is not None
    means = probabilities.double() @ torch.tensor(classes.numbers, dtype=torch.float64)
    return [round(mean, 3) for mean in means.tolist()]


def numbers_of(labels: Sequence[str]) -> list[float]:
    numbers = [number_of(label) for label in labels]
    assert None not in numbers
    return [number for number in numbers if number is not None]


def _place(label: str, classes: ClassList) -> int:
    place = classes.place(label)
    assert place is not None, "samples are checked before"
    return place
