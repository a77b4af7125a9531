"""Points, bins, running means and ticks."""

import numpy as np
import pytest

from megatron_mplug2.observability.report.axis import Scale, inner_ticks, linear_axis, log_axis, short
from megatron_mplug2.observability.report.series import Series, edges_between


def test_the_last_value_of_a_step_counts_and_what_is_no_number_is_counted() -> None:
    series = Series.of([5, 3, 5, 9, 7], [1.0, 2.0, 4.0, np.nan, np.inf])
    assert (series.steps.tolist(), series.values.tolist(), series.not_finite) == ([3, 5], [2.0, 4.0], 2)
    assert len(Series.of([], [])) == 0


def test_bins_keep_the_smallest_and_the_largest() -> None:
    values = np.arange(100.0)
    values[42] = 1000
    bins = Series.of(np.arange(100), values).binned(edges_between(0, 99, 10))
    assert bins.places.tolist() == list(range(10))
    assert bins.low[4] == 40 and bins.high[4] == 1000 and bins.steps[4] == 44.5
    assert bins.mean[4] == pytest.approx((sum(range(40, 50)) - 42 + 1000) / 10)
    gaps = Series.of([0, 99], [1.0, 2.0]).binned(edges_between(0, 99, 10))
    assert gaps.places.tolist() == [0, 9], "empty bins are left out"


def test_a_running_mean_is_of_the_window_around_a_point() -> None:
    values = np.random.default_rng(0).random(300)
    smooth = Series.of(np.arange(300), values).smoothed().values
    reach = 6  # 300 points / 25 / 2
    assert smooth[150] == pytest.approx(values[150 - reach : 151 + reach].mean())
    assert smooth[0] == pytest.approx(values[: reach + 1].mean())
    assert smooth.mean() == pytest.approx(values.mean(), abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(0, 7.3), (-2, 3), (1e-6, 5e-4), (4, 4), (0, 0), (1e9, 1e12)])
def test_ticks_of_an_upright_axis_are_few_and_around_the_values(low: float, high: float) -> None:
    axis = linear_axis(low, high, 5)
    assert axis.low <= low and axis.high >= high and 2 <= len(axis.ticks) <= 6
    assert [axis.place(axis.low), axis.place(axis.high)] == [0, 1]


@pytest.mark.parametrize(("low", "high"), [(0.02, 30), (10, 70), (3, 3), (1e-12, 1e12)])
def test_a_logarithmic_axis(low: float, high: float) -> None:
    axis = log_axis(low, high, 5)
    assert axis.scale is Scale.LOG and 2 <= len(axis.ticks) <= 6
    assert axis.low <= low and axis.high >= high
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in axis.ticks)


def test_ticks_of_steps_are_whole_and_inside() -> None:
    assert inner_ticks(0, 1199, 5).ticks == (0, 500, 1000)
    assert inner_ticks(0, 1, 5).ticks == (0, 1)
    assert inner_ticks(0, 99_999, 5).ticks == (0, 50_000)


def test_short_numbers() -> None:
    numbers = [0, 0.07, 5e-4, 1234, 12_000, 3_340_000, 7.5, -0.25, 1e15]
    assert [short(number) for number in numbers] == ["0", "0.07", "5e-4", "1,234", "12k", "3.34M", "7.5", "-0.25", "1e15"]
