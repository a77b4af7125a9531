"""Counts between fixed edges, as a drawing of bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _TOP, _BOTTOM = 360, 130, 16, 20
"""Of the drawing, in its own units: what is above and below the bars counts too."""


class Histogram:
    """A bar for each edge: numbers from it on, below the next edge; the last bar has no end."""

    def __init__(self, title: str, edges: Sequence[float]) -> None:
        self.title = title
        self._edges = np.array(edges)
        self._counts = np.zeros(len(edges), np.int64)
        self.unknown = 0
        """Numbers below the first edge."""

    @property
    def known(self) -> int:
        return int(self._counts.sum())

    def add(self, numbers: NDArray[Any]) -> None:
        bars = np.searchsorted(self._edges, numbers, side="right") - 1
        self.unknown += int((bars < 0).sum())
        self._counts += np.bincount(bars[bars >= 0], minlength=len(self._edges))

    def drawing(self) -> str:
        """A figure without outside links; its bars carry their numbers as tooltips. Empty bars at both ends are left out."""
        filled = np.flatnonzero(self._counts)
        bars = range(filled[0], filled[-1] + 1)
        room, step = _HEIGHT - _TOP - _BOTTOM, _WIDTH / len(bars)
        parts = []
        for place, bar in enumerate(bars):
            count, left = int(self._counts[bar]), place * step
            height = room * count / int(self._counts.max())
            middle = f"{left + step / 2:.1f}"
            edge = f"{self._edges[bar]:g}{'+' if bar == len(self._edges) - 1 else ''}"
            shape = f'x="{left + 1:.1f}" y="{_TOP + room - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}"'
            parts.append(f"<rect {shape}><title>{self._range(bar)}: {count:,}</title></rect>")
            parts.append(f'<text x="{middle}" y="{_TOP + room - height - 3:.1f}">{_short(count) if count else ""}</text>')
            parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}">{edge}</text>')
        unknown = f", {self.unknown:,} not known" if self.unknown else ""
        return (
            f"<figure><figcaption>{self.title}{unknown}</figcaption>"
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{self.title}">{"".join(parts)}</svg></figure>'
        )

    def _range(self, bar: int) -> str:
        last = bar == len(self._edges) - 1
        return f"{self._edges[bar]:g} or more" if last else f"from {self._edges[bar]:g}, below {self._edges[bar + 1]:g}"


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
