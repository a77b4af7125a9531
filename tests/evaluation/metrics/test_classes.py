"""Measures of classes, by hand."""

from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.data.class_list import ClassList
from megatron_mplug2.evaluation.metrics.classes import Measure, chance, mean_numbers, measures_of, values


def of(*names: str) -> ClassList:
    return ClassList(path=Path("classes.txt"), names=names)


def test_what_a_family_and_its_list_are_measured_by() -> None:
    two, six, numbers = of("no", "yes"), of(*"abcdef"), of("0.0", "0.2")
    assert measures_of(Family.IMAGE_CLASSIFICATION, two) == (Measure.TOP_1,)
    assert measures_of(Family.VIDEO_CLASSIFICATION, six) == (Measure.TOP_1, Measure.TOP_5)
    assert measures_of(Family.IMAGE_ENTAILMENT, two) == measures_of(Family.TEXT_CLASSIFICATION, six) == (Measure.ACCURACY,)
    assert measures_of(Family.TEXT_CLASSIFICATION, two) == (Measure.ACCURACY, Measure.F1, Measure.MATTHEWS)
    assert measures_of(Family.TEXT_CLASSIFICATION, numbers) == (Measure.PEARSON, Measure.SPEARMAN)


def test_top_classes() -> None:
    """The right one stands first, sixth, second."""
    probabilities = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1]]) / 21
    found = values((Measure.TOP_1, Measure.TOP_5), probabilities, ["a", "F", "b"], of(*"abcdef"))
    assert found == pytest.approx({Measure.TOP_1: 100 / 3, Measure.TOP_5: 200 / 3})


def test_two_classes_of_which_the_last_counts() -> None:
    """Said yes, yes, no, no of yes, no, yes, no, no more: 1 true positive, 1 false one, 1 missed."""
    probabilities = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.7, 0.3], [0.6, 0.4]])
    labels, classes = ["yes", "no", "yes", "no", "No"], of("no", "yes")
    found = values((Measure.ACCURACY, Measure.F1, Measure.MATTHEWS), probabilities, labels, classes)
    assert found == pytest.approx({Measure.ACCURACY: 60, Measure.F1: 50, Measure.MATTHEWS: 100 * (1 * 2 - 1 * 1) / 36**0.5})
    assert chance(Measure.ACCURACY, labels, classes) == 60 and chance(Measure.F1, labels, classes) is None


def test_numbers_are_means_by_probability_against_the_labels_themselves() -> None:
    classes = of("0", "1", "2")
    probabilities = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.5, 0.25]])
    assert mean_numbers(probabilities, classes) == [0.5, 1.5, 1.0]
    found = values((Measure.PEARSON, Measure.SPEARMAN), probabilities, ["0.1", "1.9", "1.5"], classes)
    assert found[Measure.SPEARMAN] == pytest.approx(100)
    assert found[Measure.PEARSON] == pytest.approx(100 * 0.9 / (0.5 * (3.2**2 + 2.2**2 + 1) / 9) ** 0.5)
