"""The measures of GLUE (Wang et al., arXiv 1804.07461). Where a measure has no value (nothing varies), it is 0."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[int]
Numbers = Sequence[float]


def accuracy(said: Labels, truth: Labels) -> float:
    return 100 * float(np.mean(np.asarray(said) == np.asarray(truth)))


def f1(said: Labels, truth: Labels) -> float:
    """Of class 1 (MRPC and QQP: that two texts mean the same)."""
    true_positives, false_positives, false_negatives, _ = _confusion(said, truth)
    return 100 * _ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives)


def matthews(said: Labels, truth: Labels) -> float:
    """Matthews correlation of two classes (CoLA), -100 to 100."""
    true_positives, false_positives, false_negatives, true_negatives = _confusion(said, truth)
    margins = (
        (true_positives + false_positives)
        * (true_positives + false_negatives)
        * (true_negatives + false_positives)
        * (true_negatives + false_negatives)
    )
    return 100 * _ratio(true_positives * true_negatives - false_positives * false_negatives, margins**0.5)


def pearson(said: Numbers, truth: Numbers) -> float:
    """Correlation (STS-B), -100 to 100."""
    one, other = (np.asarray(numbers, np.float64) - np.mean(numbers, dtype=np.float64) for numbers in (said, truth))
    return 100 * _ratio(float(one @ other), float(np.linalg.norm(one) * np.linalg.norm(other)))


def spearman(said: Numbers, truth: Numbers) -> float:
    """Correlation of the ranks (STS-B), -100 to 100; equal numbers share their mean rank."""
    return pearson(_ranks(said).tolist(), _ranks(truth).tolist())


def _ranks(numbers: Numbers) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(np.asarray(numbers, np.float64), return_inverse=True, return_counts=True)
    last: NDArray[np.float64] = counts.cumsum() - (counts - 1) / 2
    return last[inverse]


def _confusion(said: Labels, truth: Labels) -> tuple[int, int, int, int]:
    """True and false positives, false and true negatives."""
    pairs = Counter((guess == 1, right == 1) for guess, right in zip(said, truth, strict=True))
    return pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
