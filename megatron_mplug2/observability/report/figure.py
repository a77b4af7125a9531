"""A chart as a figure of the page: the drawing, its legend, and a table of the values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from megatron_mplug2.observability.report.axis import Axis, Scale, linear_axis, log_axis
from megatron_mplug2.observability.report.chart import Chart, Frame, Line, Style
from megatron_mplug2.observability.report.drawing import HEIGHT, WIDTH, Drawing
from megatron_mplug2.observability.report.series import Series, edges_between
from megatron_mplug2.pages.markup import shown, table

BINS = 150
"""Most places from left to right: where more was logged, a band from the smallest to the largest value of each."""
ROWS = 24
"""Most rows of a table, and columns that tell their values when a pointer rests on them."""


def figure(chart: Chart, frame: Frame) -> str:
    """Empty where there is nothing to draw."""
    lines = [line for line in (_drawable(line, chart.scale) for line in chart.lines) if len(line.series)]
    if not lines:
        return ""
    drawn = _stacked(lines)
    drawing = Drawing(across=frame.axis, up=_up(drawn, chart.scale))
    edges, rows = edges_between(frame.first, frame.last, BINS), _rows(lines, frame)
    parts = [*drawing.grid(chart.unit), *(part for line in drawn for part in drawing.curve(line, edges)), *drawing.phases(frame.phases)]
    parts += [drawing.hover(row.first, row.last, _told(lines, row)) for row in rows]
    return _around(chart, lines, "".join(parts), _table(lines, rows))


def _around(chart: Chart, lines: Sequence[Line], drawing: str, values: str) -> str:
    """What a drawing stands in; `drawing` and `values` are markup."""
    title = shown(chart.title)
    drawn = {line.color for line in lines if line.style is not Style.POINTS}
    named = [line for line in lines if line.style is not Style.POINTS or line.color not in drawn]  # dots beside a curve are its validation
    legend = "".join(f'<span class="key {line.style} c{line.color}">{shown(line.label)}</span>' for line in named)
    note = _note(chart)
    told = f'<p class="note">{shown(note, 400)}</p>' if note else ""
    return (
        f'<figure class="chart"><figcaption><b>{title}</b><span class="legend">{legend}</span></figcaption>'
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{drawing}</svg>'
        f"<div>{told}<details><summary>Values</summary>{values}</details></div></figure>"
    )


def _stacked(lines: Sequence[Line]) -> list[Line]:
    """Areas as they lie on one another, the top one first, so that none hides another; other lines as they are."""
    areas = [line for line in lines if line.style is Style.AREA]
    if not areas:
        return list(lines)
    steps = np.unique(np.concatenate([line.series.steps for line in areas]))
    height, stacked = np.zeros(len(steps)), []
    for line in areas:
        height = height.copy()
        height[np.searchsorted(steps, line.series.steps)] += line.series.values
        stacked.append(replace(line, series=Series(steps=steps, values=height)))
    return stacked[::-1]


def _drawable(line: Line, scale: Scale) -> Line:
    series = line.series.above_zero() if scale is Scale.LOG else line.series
    return replace(line, series=series)


def _up(lines: Sequence[Line], scale: Scale) -> Axis:
    low = min(float(line.series.values.min()) for line in lines)
    high = max(float(line.series.values.max()) for line in lines)
    if scale is Scale.LOG:
        return log_axis(low, high, 5)
    if low == high:
        return linear_axis(min(low, 0.0), max(high, 0.0) or 1.0, 5)
    return linear_axis(0.0 if 0 <= low < 0.7 * high else low, high, 5)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The means of the lines over a stretch of steps."""

    first: int
    last: int
    means: tuple[float | None, ...]
    """None where a line has no value."""

    @property
    def steps(self) -> str:
        return f"step {self.first:,}" if self.first == self.last else f"steps {self.first:,} to {self.last:,}"


def _rows(lines: Sequence[Line], frame: Frame) -> list[Row]:
    edges = np.unique(np.round(edges_between(frame.first, frame.last, ROWS)))
    columns = []
    for line in lines:
        bins = line.series.binned(edges)
        columns.append(dict(zip(bins.places.tolist(), bins.mean.tolist(), strict=True)))
    found = []
    for place, (begin, end) in enumerate(pairwise(edges.astype(np.int64).tolist())):
        means = tuple(column.get(place) for column in columns)
        if any(mean is not None for mean in means):
            found.append(Row(first=begin, last=end - 1, means=means))
    return found


def _told(lines: Sequence[Line], row: Row) -> str:
    """Markup of a tooltip."""
    values = zip(lines, row.means, strict=True)
    return "\n".join([row.steps, *(f"{shown(line.label)}: {exact(mean)}" for line, mean in values if mean is not None)])


def _table(lines: Sequence[Line], rows: Sequence[Row]) -> str:
    cells = [(row.steps.split(maxsplit=1)[1], *("" if mean is None else exact(mean) for mean in row.means)) for row in rows]
    return table(("steps (mean over them)", *(shown(line.label) for line in lines)), cells)


def exact(value: float) -> str:
    """To four digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _note(chart: Chart) -> str:
    lost = sum(line.series.not_finite for line in chart.lines)
    said = [chart.note] if chart.note else []
    if lost:
        said.append(f"{lost} value{'s' if lost > 1 else ''} left out: not a number, or infinite")
    return ". ".join(said)
