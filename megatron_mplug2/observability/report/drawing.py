"""Lines, bands, dots and axes as SVG without script."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_mplug2.observability.report.axis import Axis, short
from megatron_mplug2.observability.report.chart import Line, Style
from megatron_mplug2.observability.report.series import Bins, Numbers
from megatron_mplug2.pages.markup import shown

WIDTH, HEIGHT = 360, 216
"""Of a drawing in its own units; a page shows it at that size in pixels or a little larger."""
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 28, 40
"""Margins around the area that is drawn in."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Markup of the parts of a drawing, by its axes."""

    across: Axis
    up: Axis

    def x(self, step: float) -> float:
        return LEFT + self.across.place(step) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (1 - self.up.place(value)) * (HEIGHT - TOP - BOTTOM)

    def grid(self, unit: str) -> Iterator[str]:
        for tick in self.up.ticks:
            height = f"{self.y(tick):.1f}"
            yield f'<path class="grid" d="M{LEFT} {height}H{WIDTH - RIGHT}"/>'
            yield f'<text class="tick up" x="{LEFT - 6}" y="{height}" dy=".35em">{short(tick)}</text>'
        yield f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        for tick in self.across.ticks:
            place = f"{self.x(tick):.1f}"
            anchor = " end" if self.x(tick) > WIDTH - RIGHT - 12 else ""
            yield f'<path class="axis" d="M{place} {HEIGHT - BOTTOM}v4"/>'
            yield f'<text class="tick{anchor}" x="{place if not anchor else WIDTH - 2}" y="{HEIGHT - BOTTOM + 17}">{short(tick)}</text>'
        yield f'<text class="title y-title" x="2" y="12">{shown(unit)}</text>'
        yield f'<text class="title x-title" x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 5}">optimizer step</text>'

    def phases(self, steps: Sequence[int]) -> Iterator[str]:
        for step in steps:
            if self.across.low < step < self.across.high:
                line = f"M{self.x(step):.1f} {TOP}V{HEIGHT - BOTTOM}"
                yield f'<path class="phase" d="{line}"><title>next phase from step {step:,}</title></path>'

    def hover(self, first: int, last: int, told: str) -> str:
        """A column over some steps that tells something where a pointer rests on it."""
        left, right = self.x(first), self.x(min(last + 1, self.across.high))
        shape = f'x="{left:.1f}" y="{TOP}" width="{max(right - left, 1):.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        return f'<rect class="hover" {shape}><title>{told}</title></rect>'

    def curve(self, line: Line, edges: Numbers) -> Iterator[str]:
        """A band and means by the bins between `edges` where there are more points than bins."""
        color, series = f"c{line.color}", line.series
        bins = series.binned(edges)
        dense = len(series) > len(edges)
        steps, values = (bins.steps, bins.mean) if dense else (series.steps.astype(np.float64), series.values)
        if line.style is Style.POINTS or len(series) == 1:
            yield from (self._dot(color, step, value) for step, value in zip(steps.tolist(), values.tolist(), strict=True))
        elif line.style is Style.AREA:
            yield f'<polygon class="area {color}" points="{self._to_zero(steps, values)}"/>'
        elif line.style is Style.LINE:
            yield self._band(color, bins) if dense else ""
            yield f'<polyline class="{color}" points="{self._points(steps, values)}"/>'
        else:
            yield self._band(color, bins) if dense else f'<polyline class="{color} faint" points="{self._points(steps, values)}"/>'
            smooth = series.smoothed()
            mean = smooth.binned(edges).mean if dense else smooth.values
            yield f'<polyline class="{color} bold" points="{self._points(steps, mean)}"/>'

    def _band(self, color: str, bins: Bins) -> str:
        around = f"{self._points(bins.steps, bins.high)} {self._points(bins.steps[::-1], bins.low[::-1])}"
        return f'<polygon class="band {color}" points="{around}"/>'

    def _to_zero(self, steps: Numbers, values: Numbers) -> str:
        ends = [f"{self.x(step):.1f},{self.y(0):.1f}" for step in (steps[-1], steps[0])]
        return f"{self._points(steps, values)} {' '.join(ends)}"

    def _dot(self, color: str, step: float, value: float) -> str:
        return f'<circle class="{color}" cx="{self.x(step):.1f}" cy="{self.y(value):.1f}" r="3"/>'

    def _points(self, steps: Numbers, values: Numbers) -> str:
        return " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(steps.tolist(), values.tolist(), strict=True))
