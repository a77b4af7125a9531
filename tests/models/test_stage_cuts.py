"""Cuts of a row of costs: the balanced and the quickest one against every cut there is."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from megatron_mplug2.models.stage_cuts import Pass, balanced_starts, quickest_starts, slowest, step_time


def all_cuts(units: int, stages: int) -> Iterator[tuple[int, ...]]:
    return ((0, *starts) for starts in combinations(range(1, units), stages - 1))


def drawn_passes(seed: int) -> tuple[Pass, ...]:
    """Units that are idle in some passes and dear in others, as text, pictures and clips make them."""
    draws, count, units = np.random.default_rng(seed), 4, 11
    idle = draws.random((count, units)) < 0.4
    costs = np.where(idle, 0, draws.integers(1, 9, (count, units)))
    weights = draws.random(count) + 0.1
    return tuple(Pass(float(weight), tuple(float(cost) for cost in row)) for weight, row in zip(weights, costs, strict=True))


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("seed", range(5))
def test_both_cuts_are_the_best_of_all(seed: int, stages: int) -> None:
    passes = drawn_passes(seed)
    costs = passes[0].costs
    balanced, quickest = balanced_starts(costs, stages), quickest_starts(passes, stages)
    cuts = set(all_cuts(len(costs), stages))
    assert balanced in cuts and slowest(costs, balanced) == min(slowest(costs, cut) for cut in cuts)
    assert quickest in cuts and step_time(passes, quickest) == pytest.approx(min(step_time(passes, cut) for cut in cuts))


def test_the_quickest_cut_is_not_that_of_the_mean_load() -> None:
    """Units that only pictures use, then units that only text does. The mean's cut between them leaves one stage idle in each task."""
    text, pictures = Pass(1, (0, 0, 0, 0, 2, 2)), Pass(1, (2, 2, 0, 0, 0, 0))
    mean = [sum(costs) for costs in zip(text.costs, pictures.costs, strict=True)]
    assert balanced_starts(mean, 2) == (0, 2)
    assert step_time([text, pictures], (0, 2)) == 8
    assert step_time([text, pictures], quickest_starts((text, pictures), 2)) == 6


def test_of_equally_quick_cuts_the_mean_load_s_stays() -> None:
    one = Pass(1, (1, 1, 1, 1))
    assert quickest_starts((one, one), 2) == balanced_starts(one.costs, 2) == (0, 2)


def test_there_are_no_more_stages_than_units() -> None:
    for cut in (balanced_starts((1, 2), 2), quickest_starts((Pass(1, (1, 2)),), 2)):
        assert cut == (0, 1)
    with pytest.raises(ValueError, match="2 units cannot be cut into 3 stages"):
        quickest_starts((Pass(1, (1, 2)),), 3)
