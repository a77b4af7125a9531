"""Boxes, classes and GLUE, against values worked by hand."""

import pytest
import torch

from megatron_mplug2.evaluation.metrics import glue
from megatron_mplug2.evaluation.metrics.boxes import box_accuracy, intersection_over_union
from megatron_mplug2.evaluation.metrics.top_k import top_k_accuracy

TRUTH = torch.tensor([10.0, 10, 20, 10])


@pytest.mark.parametrize(
    ("box", "overlap"),
    [
        ((10, 10, 20, 10), 1.0),
        ((20, 10, 20, 10), 100 / 300),
        ((10, 10, 10, 10), 0.5),
        ((15, 15, 5, 2), 10 / 200),  # inside
        ((30, 10, 20, 10), 0.0),  # side by side
        ((50, 50, 5, 5), 0.0),
        ((15, 15, 0, 5), 0.0),
        ((30, 20, -20, -10), 0.0),
    ],
)
def test_intersection_over_union(box: tuple[float, ...], overlap: float) -> None:
    one = torch.tensor([box])
    assert intersection_over_union(one, TRUTH[None]).tolist() == pytest.approx([overlap])
    assert intersection_over_union(TRUTH[None], one).tolist() == pytest.approx([overlap])
    assert box_accuracy(one, TRUTH[None]) == (100.0 if overlap >= 0.5 else 0.0)


def test_two_boxes_of_no_size_do_not_overlap() -> None:
    assert box_accuracy(torch.zeros(1, 4), torch.zeros(1, 4)) == 0.0


def test_top_k() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.2], [0.0, 0.1, 0.9]])
    labels = torch.tensor([1, 1, 0, 0])
    assert [top_k_accuracy(scores, labels, k) for k in (1, 2, 3)] == [25.0, 50.0, 100.0]


def test_glue() -> None:
    said, truth = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]
    assert glue.accuracy(said, truth) == pytest.approx(100 * 5 / 7)
    assert glue.f1(said, truth) == pytest.approx(100 * 4 / 6)
    assert glue.matthews(said, truth) == pytest.approx(100 * 5 / 12)
    assert glue.matthews([0, 1], [1, 0]) == -100.0
    assert glue.pearson([1, 2, 3, 4], [1, 3, 2, 5]) == pytest.approx(100 * 5.5 / 43.75**0.5)
    assert glue.spearman([1, 2, 3, 4], [1, 3, 2, 50]) == pytest.approx(80.0)
    assert glue.spearman([7, 7, 9, 9], [1, 2, 2, 3]) == pytest.approx(100 * 3 / 18**0.5)


def test_glue_without_variation_is_zero() -> None:
    assert (glue.f1([0, 0], [0, 0]), glue.matthews([1, 1], [1, 0]), glue.pearson([2, 2], [1, 3])) == (0.0, 0.0, 0.0)
