"""Whether a cost grows as a line: what a line leaves unexplained, and what a parabola would add to it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Of a cost with a size, by least squares."""

    intercept: float
    slope: float
    """Of the line, as `intercept`."""
    r_squared: float
    """Share of the costs' variance that the line explains; 1 where the cost is the same at every size."""
    largest_deviation: float
    """Of a cost from the line, as a share of the line's."""
    quadratic_share: float
    """At the largest size, what the quadratic term of a parabola is of its value; below 0 where the cost bends down."""


def growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Raises ValueError for fewer than three different sizes: a parabola goes through any two."""
    if len(set(sizes)) < 3:
        raise ValueError(f"growth needs three different sizes, not {sorted(set(sizes))}")
    x, y = np.array(sizes, float), np.array(costs, float)
    line, parabola = (Polynomial.fit(x, y, degree).convert() for degree in (1, 2))
    intercept, slope = _coefficients(line, 2)
    *_, square = _coefficients(parabola, 3)
    left, all_of_it = float(((y - line(x)) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    largest = x.max()
    return Growth(
        intercept=intercept,
        slope=slope,
        r_squared=1 - left / all_of_it if all_of_it else 1.0,
        largest_deviation=float(abs(y / line(x) - 1).max()),
        quadratic_share=square * float(largest**2 / parabola(largest)),
    )


@dataclass(frozen=True, kw_only=True)
class Curve:
    title: str
    size: str
    cost: str
    """What is counted, and in what."""
    points: dict[int, float]
    """Size -> cost."""

    @property
    def growth(self) -> Growth:
        return growth(list(self.points), list(self.points.values()))

    @property
    def tree(self) -> dict[str, Any]:
        fit = {name: float(f"{value:.6g}") for name, value in asdict(self.growth).items()}
        return {"size": self.size, "cost": self.cost, "points": self.points, "growth": fit}

    def __str__(self) -> str:
        fit = self.growth
        points = "  ".join(f"{size}: {cost:.4g}" for size, cost in self.points.items())
        line = f"{fit.intercept:.4g} + {fit.slope:.4g} n, R² {fit.r_squared:.5f}, off by at most {100 * fit.largest_deviation:.1f} %"
        square = f"quadratic term {100 * fit.quadratic_share:+.1f} % at the largest"
        return f"{self.title} by {self.size}, {self.cost}\n    {points}\n    {line}; {square}"


def _coefficients(polynomial: "Polynomial", count: int) -> list[float]:
    """Also those that conversion leaves out, being nothing."""
    found: list[float] = polynomial.coef.tolist()
    return found + [0.0] * (count - len(found))
