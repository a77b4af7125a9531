"""A figure over the steps of a run, and what a drawing needs of it: bins, a running mean, means for a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMOOTHED_OVER = 25
"""A running mean is taken over one in so many of the points."""

_LARGEST = 1e100
"""That is drawn. No float32 is so large, nor a norm of them; sums and differences of what is drawn are numbers."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values [n] at rising steps [n], all of them finite."""

    steps: NDArray[np.int64]
    values: Numbers
    not_finite: int = 0
    """Values that were left out, for they are no number or infinite, or nearly."""

    @staticmethod
    def of(steps: Any, values: Any) -> "Series":
        """From what was written in any order; of a step that comes again the last value counts."""
        steps, values = np.asarray(steps, np.int64), np.asarray(values, np.float64)
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        last = np.append(steps[1:] != steps[:-1], True)[: len(steps)]
        steps, values = steps[last], values[last]
        finite = np.abs(values) < _LARGEST  # false for what is no number
        return Series(steps=steps[finite], values=values[finite], not_finite=int((~finite).sum()))

    def __len__(self) -> int:
        return len(self.steps)

    def times(self, factor: float) -> "Series":
        return Series(steps=self.steps, values=self.values * factor, not_finite=self.not_finite)

    def above_zero(self) -> "Series":
        """For a logarithmic axis."""
        kept = self.values > 1 / _LARGEST
        return Series(steps=self.steps[kept], values=self.values[kept], not_finite=self.not_finite)

    def smoothed(self) -> "Series":
        """The mean over a window around each point, which is shorter at both ends."""
        reach = max(1, len(self) // SMOOTHED_OVER) // 2 or 1
        total = np.concatenate([[0.0], np.cumsum(self.values)])
        places = np.arange(len(self))
        first, end = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(self))
        return Series(steps=self.steps, values=(total[end] - total[first]) / (end - first))

    def binned(self, edges: Numbers) -> "Bins":
        """By rising edges [bins + 1]; a bin holds its lower edge, the last one its upper edge too. Empty bins are left out."""
        if not len(self):
            empty = np.empty(0)
            return Bins(places=np.empty(0, np.int64), steps=empty, low=empty, mean=empty, high=empty)
        place = np.clip(np.searchsorted(edges, self.steps, side="right") - 1, 0, len(edges) - 2)
        begins = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
        counts = np.diff(np.append(begins, len(place)))
        return Bins(
            places=place[begins],
            steps=np.add.reduceat(self.steps.astype(np.float64), begins) / counts,
            low=np.minimum.reduceat(self.values, begins),
            mean=np.add.reduceat(self.values, begins) / counts,
            high=np.maximum.reduceat(self.values, begins),
        )


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Of those bins that hold values, in order."""

    places: NDArray[np.int64]
    """Number of the bin."""
    steps: Numbers
    """Mean step."""
    low: Numbers
    mean: Numbers
    high: Numbers


def edges_between(first: int, last: int, most: int) -> Numbers:
    """At most `most` bins of equal width that cover the steps, each at least a step wide."""
    return np.linspace(first, last + 1, min(most, last + 1 - first) + 1)
