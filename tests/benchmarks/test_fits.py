"""Fits of costs that are known."""

import pytest

from benchmarks.fits import Curve, growth

SIZES = (2, 4, 8, 16)


def test_a_line_is_found_and_nothing_is_left() -> None:
    found = growth(SIZES, [3 + 0.5 * size for size in SIZES])
    assert (found.intercept, found.slope, found.r_squared) == pytest.approx((3, 0.5, 1))
    assert abs(found.largest_deviation) < 1e-12 and abs(found.quadratic_share) < 1e-12


def test_a_parabola_shows_as_one() -> None:
    """7 + 2 n + n^2 at 16: the square is 256 of 295."""
    found = growth(SIZES, [7 + 2 * size + size**2 for size in SIZES])
    assert found.quadratic_share == pytest.approx(256 / 295)
    assert found.r_squared < 0.99 and found.largest_deviation > 0.2


def test_one_point_off_the_line_is_told() -> None:
    """By hand: the line through (1, 1), (2, 2), (3, 3), (4, 6) is 1.6 n - 1; at 1 it says 0.6 where 1 was found."""
    found = growth((1, 2, 3, 4), (1, 2, 3, 6))
    assert (found.intercept, found.slope, found.largest_deviation) == pytest.approx((-1, 1.6, 1 / 0.6 - 1))
    assert found.r_squared == pytest.approx(1 - 1.2 / 14)


def test_a_constant_is_a_line() -> None:
    found = growth(SIZES, [5.0] * 4)
    assert (found.intercept, found.slope, found.r_squared, found.largest_deviation) == pytest.approx((5, 0, 1, 0), abs=1e-12)


def test_two_sizes_say_nothing() -> None:
    with pytest.raises(ValueError, match=r"three different sizes, not \[2, 4\]"):
        growth((2, 4, 4), (1, 2, 3))


def test_a_curve_is_told_with_its_fit() -> None:
    square = Curve(title="scores", size="clips", cost="seconds", points={1: 1.0, 2: 4.0, 3: 9.0, 4: 16.0})
    assert str(square).splitlines()[0] == "scores by clips, seconds"
    assert "-5 + 5 n, R² 0.96899" in str(square) and "quadratic term +100.0 % at the largest" in str(square)
