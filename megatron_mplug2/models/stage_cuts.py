"""Where a row of costs is cut into contiguous stages. Numbers only: `partition` says what they are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Pass:
    """A pass of a step's microbatches through the pipeline. With many of them it takes the time of its slowest stage."""

    weight: float
    """Steps that make it, relative to those of the other passes."""
    costs: tuple[float, ...]
    """Of each unit of the chain, for one microbatch."""


def slowest(costs: Sequence[float], starts: Sequence[int]) -> float:
    """The dearest stage of a cut."""
    return max(stage_sums(costs, starts))


def stage_sums(costs: Sequence[float], starts: Sequence[int]) -> list[float]:
    return [sum(costs[start:end]) for start, end in pairwise((*starts, len(costs)))]


def step_time(passes: Sequence[Pass], starts: Sequence[int]) -> float:
    """What a cut makes of the passes: their slowest stages, weighted. In the costs' unit, a microbatch."""
    return sum(one.weight * slowest(one.costs, starts) for one in passes)


def balanced_starts(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """First unit of each of the contiguous, non-empty stages whose dearest one is cheapest. Exact, by dynamic programming.

    Raises ValueError where there are fewer units than stages.
    """
    if len(costs) < stages:
        raise ValueError(f"{len(costs)} units cannot be cut into {stages} stages")
    total = [0.0, *accumulate(costs)]
    # best[end]: least possible maximum over the stages so far, which cover the first `end` units; cuts[end]: where the last one starts.
    best = [0.0] + [float("inf")] * len(costs)
    history: list[list[int]] = []
    for _ in range(stages):
        longer, cuts = [float("inf")] * (len(costs) + 1), [0] * (len(costs) + 1)
        for end in range(1, len(costs) + 1):
            candidates = ((max(best[start], total[end] - total[start]), start) for start in range(end))
            longer[end], cuts[end] = min(candidates)
        best = longer
        history.append(cuts)
    starts, end = [], len(costs)
    for cuts in reversed(history):
        end = cuts[end]
        starts.append(end)
    return tuple(reversed(starts))


@cache
def quickest_starts(passes: tuple[Pass, ...], stages: int) -> tuple[int, ...]:
    """First unit of each of the contiguous, non-empty stages of least `step_time`. Exact, in well under a second.

    Where passes differ in what is dear to them, the cut that balances their mean is not the quickest: a stage that one pass fills is slack
    in another. The mean's cut bounds the search for a better one; where there is none it is kept.
    Raises ValueError where there are fewer units than stages.
    """
    mean = [sum(one.weight * one.costs[unit] for one in passes) for unit in range(len(passes[0].costs))]
    found = balanced_starts(mean, stages)
    return _better(passes, stages, found) or found


@dataclass(frozen=True)
class _Ways:
    """Ways to cover the chain up to some unit with so many stages."""

    maxima: Vectors
    """[ways, passes]: the slowest stage so far."""
    starts: NDArray[np.int64]
    """[ways, stages so far]."""

    def __getitem__(self, kept: NDArray[np.int64] | NDArray[np.bool_]) -> "_Ways":
        return _Ways(self.maxima[kept], self.starts[kept])


def _better(passes: Sequence[Pass], stages: int, found: tuple[int, ...]) -> tuple[int, ...] | None:
    """The best cut of less time than `found`; None where there is none.

    Stage by stage all ways are gone on with but those that cannot become quicker than `found`, and those that another way to the same unit
    beats in all passes.
    """
    weights = np.array([one.weight for one in passes])
    total = np.array([[0.0, *accumulate(one.costs)] for one in passes]).T
    units, limit = len(total) - 1, step_time(passes, found) * (1 - 1e-9)
    fronts = {0: _Ways(np.zeros((1, len(passes))), np.zeros((1, 0), dtype=np.int64))}
    for following in reversed(range(stages)):
        longer = {}
        for end in range(min(fronts) + 1, units - following + 1) if following else (units,):
            ways = _with_stage(fronts, end, total)
            # At best the stages that follow share what remains evenly.
            at_least = np.maximum(ways.maxima, (total[units] - total[end]) / max(following, 1)) @ weights
            ways = _unbeaten(ways[at_least < limit])
            if len(ways.maxima):
                longer[end] = ways
        fronts = longer
        if not fronts:
            return None
    last = fronts[units]
    return tuple(int(start) for start in last.starts[np.argmin(last.maxima @ weights)])


def _with_stage(fronts: dict[int, _Ways], end: int, total: Vectors) -> _Ways:
    """All ways with one stage more, which ends at `end`, after the first end of `fronts`."""
    before = [(start, ways) for start, ways in fronts.items() if start < end]
    maxima = [np.maximum(ways.maxima, total[end] - total[start]) for start, ways in before]
    starts = [np.column_stack([ways.starts, np.full(len(ways.starts), start)]) for start, ways in before]
    return _Ways(np.concatenate(maxima), np.concatenate(starts))


def _unbeaten(ways: _Ways) -> _Ways:
    """Those that no other beats or equals in all passes; of equals the first."""
    ways = ways[np.lexsort((*ways.maxima.T, ways.maxima.sum(axis=1)))]  # what beats another comes before it
    kept: list[int] = []
    for number, maxima in enumerate(ways.maxima):
        if not (ways.maxima[kept] <= maxima).all(axis=1).any():
            kept.append(number)
    return ways[np.array(kept, dtype=np.int64)]
