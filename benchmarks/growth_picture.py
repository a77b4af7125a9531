"""Curves of costs with the line through each, as PNG."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.fits import Curve

_WIDTH, _HEIGHT, _DPI = 3.4, 2.8, 150
"""Inches of one curve's plot."""


def draw(curves: Sequence[Curve]) -> bytes:
    """One plot each, side by side."""
    figure = Figure(figsize=(_WIDTH * len(curves), _HEIGHT), dpi=_DPI, layout="constrained")
    for place, curve in enumerate(curves, 1):
        axes, fit, largest = figure.add_subplot(1, len(curves), place), curve.growth, max(curve.points)
        axes.plot([0, largest], [fit.intercept, fit.intercept + fit.slope * largest], color="#9aa3ad", linewidth=1.2)
        axes.plot(list(curve.points), list(curve.points.values()), "o", color="#2f6db5", markersize=5, clip_on=False)
        axes.set(xlim=(0, None), ylim=(0, None), xlabel=curve.size, ylabel=curve.cost)
        axes.set_title(f"{curve.title}: R² {fit.r_squared:.4f}", fontsize=10, loc="left", fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()
