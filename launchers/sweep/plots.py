"""The plots of a sweep as PNG. Points whose ranks share cores are hollow or hatched; they and those that were disturbed are in no line."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from launchers.sweep.config import Scaling
from launchers.sweep.measure import STEP
from launchers.sweep.scaling import MB, OVERSUBSCRIBED, Figure, reference_rate
from megatron_mplug2.observability.sections import Section

WIDTH, HEIGHT, BAR = 4.6, 3.0, 0.26
"""Inches: of a plot, and of a bar with the space around it."""
_DPI = 200
_COLORS = ("#2f6db5", "#d0660a", "#1b8a5a", "#b4428f", "#8a6d1c", "#5b5fc7", "#c0392b", "#2a8795", "#7a7f87", "#9c6b4f")
_SECTION_COLORS = {
    Section.DATA_WAIT: "#d0660a",
    Section.MEETING: "#2a8795",
    Section.FEATURE_PASS: "#b4428f",
    Section.FORWARD_BACKWARD: "#2f6db5",
    Section.GRADIENT_REDUCTION: "#5b5fc7",
    Section.OPTIMIZER: "#1b8a5a",
}
"""Those of the page about a run."""
_SENT = {"tensor": "tensor", "pipeline": "pipeline", "features": "VLC's features", "data": "gradients and weights"}
"""Labels of `Traffic`'s fields."""
_LOGARITHMIC_FROM = 16
"""Times the fewest ranks, from which on axes go by powers of two."""
NAMES = ("throughput", "efficiency", "step", "mfu", "tflops", "memory", "communication", "sent")
"""Of the plots that there may be."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    name: str
    """Of its file, without the ending."""
    title: str
    png: bytes


def plots(found: Sequence[Figure], scaling: Scaling) -> Iterator[Plot]:
    """Of figures in the order of ranks; what nothing is known about is left out."""
    yield _plot("throughput", f"Throughput, {scaling} scaling", HEIGHT, lambda axes: _throughput(axes, found))
    if any(each.efficiency is not None for each in found):
        yield _plot("efficiency", "Efficiency against ideal scaling", HEIGHT, lambda axes: _efficiency(axes, found))
    yield _plot("step", "Median step by section", _bars_height(found) + 0.5, lambda axes: _sections(axes, found))
    if any(each.measured.mfu is not None for each in found):
        yield _bar_plot("mfu", "Model FLOPs utilisation", "MFU (% of a device's peak)", found, lambda each: 100 * (each.measured.mfu or 0))
    yield _bar_plot("tflops", "Model operations", "model TFLOP/s of one device", found, lambda each: each.measured.tflops)
    yield _bar_plot("memory", "Peak memory", "gigabytes (10⁹ bytes), rank with the most", found, lambda each: each.measured.memory_gb)
    communication = "meeting and gradient reduction, % of the step"
    yield _bar_plot("communication", "DP communication", communication, found, lambda each: 100 * each.measured.communication)
    if any(each.sent is not None for each in found):
        yield _plot("sent", "Sent by a rank in a step", _bars_height(found) + 0.5, lambda axes: _sent(axes, found))


def _plot(name: str, title: str, height: float, draw: Callable[[Axes], None]) -> Plot:
    canvas = Canvas(figsize=(WIDTH, height), dpi=_DPI, layout="constrained")
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    draw(axes)
    axes.set_title(title, fontsize=10.5, loc="left", fontweight="bold")
    file = io.BytesIO()
    canvas.savefig(file, format="png", facecolor="white")
    return Plot(name=name, title=title, png=file.getvalue())


def _shape(each: Figure) -> str:
    layout = each.row.layout
    return f"t{layout.tensor} p{layout.pipeline}"


def _by_ranks(axes: Axes, found: Sequence[Figure], height: Callable[[Figure], float]) -> None:
    """A dot for each point, in the color of its tensor and pipeline sizes."""
    for shape, color in zip(dict.fromkeys(map(_shape, found)), cycle(_COLORS), strict=False):
        axes.plot([], [], "o", markersize=5, color=color, label=shape)  # for the legend alone
        for each in found:
            if _shape(each) == shape:
                face = "white" if each.oversubscribed else color
                axes.plot(each.ranks, height(each), "o", markersize=5, color=color, markerfacecolor=face, zorder=3)
    if any(each.oversubscribed for each in found):
        axes.plot([], [], "o", markersize=5, color="#5d6774", markerfacecolor="white", label=OVERSUBSCRIBED)
    ranks = sorted({each.ranks for each in found})
    if ranks[-1] >= _LOGARITHMIC_FROM * ranks[0]:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ranks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.margins(x=0.08, y=0.08)
    axes.set_xlabel("ranks", fontsize=9)
    axes.grid(axis="y", color="#d5dae0", linewidth=0.7)


def _legend(axes: Axes, columns: int = 4) -> None:
    """Below the plot."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, fontsize=8, frameon=False, columnspacing=1, handletextpad=0.4
    )


def _best_line(axes: Axes, found: Sequence[Figure], height: Callable[[Figure], float]) -> None:
    best: dict[int, float] = {}
    for each in found:
        if each.efficiency is not None:
            best[each.ranks] = max(height(each), best.get(each.ranks, 0.0))
    if len(best) > 1:
        axes.plot(list(best), list(best.values()), color="#1c2126", linewidth=1.2, label="quickest", zorder=2)


def _throughput(axes: Axes, found: Sequence[Figure]) -> None:
    _best_line(axes, found, lambda each: each.measured.samples_per_s)
    own = sorted({each.ranks for each in found if each.efficiency is not None})
    rate = reference_rate(found)
    if rate is not None and len(own) > 1:
        axes.plot(own, [rate * ranks for ranks in own], "--", color="#7a7f87", linewidth=1.2, label="ideal", zorder=1)
    _by_ranks(axes, found, lambda each: each.measured.samples_per_s)
    if axes.get_xscale() == "log":
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("samples per second", fontsize=9)
    _legend(axes)


def _efficiency(axes: Axes, found: Sequence[Figure]) -> None:
    own = [each for each in found if each.efficiency is not None]
    axes.axhline(100, linestyle="--", color="#7a7f87", linewidth=1.2, label="ideal", zorder=1)
    _best_line(axes, own, _percent)
    _by_ranks(axes, own, _percent)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("of ideal samples per second", fontsize=9)
    _legend(axes)


def _percent(each: Figure) -> float:
    return 100 * (each.efficiency or 0)


def _bars_height(found: Sequence[Figure]) -> float:
    return 1.2 + BAR * len(found)


def _sections(axes: Axes, found: Sequence[Figure]) -> None:
    """Bars on one another, and over them the whole step with its quartiles: medians of parts do not add up to that of the whole."""
    places = range(len(found))
    left = [0.0] * len(found)
    for section in STEP:
        parts = [1e3 * each.measured.sections[section].median if section in each.measured.sections else 0.0 for each in found]
        if any(parts):
            axes.barh(places, parts, left=left, height=0.62, color=_SECTION_COLORS[section], label=section.value)
            left = [begin + part for begin, part in zip(left, parts, strict=True)]
    steps = [each.measured.step_s for each in found]
    ends = [1e3 * step.median for step in steps]
    around = [[1e3 * (step.median - step.low) for step in steps], [1e3 * (step.high - step.median) for step in steps]]
    axes.errorbar(ends, places, xerr=around, fmt="|", color="#1c2126", capsize=2.5, linewidth=1, markersize=9, label="step, quartiles")
    _names(axes, found)
    axes.set_xlabel("milliseconds", fontsize=9)
    _legend(axes, 3)


def _sent(axes: Axes, found: Sequence[Figure]) -> None:
    """Bars on one another, by what is sent."""
    left = [0.0] * len(found)
    for (name, label), color in zip(_SENT.items(), _COLORS, strict=False):
        parts = [getattr(each.sent, name) / MB if each.sent is not None else 0.0 for each in found]
        if any(parts):
            axes.barh(range(len(found)), parts, left=left, height=0.62, color=color, label=label)
            left = [begin + part for begin, part in zip(left, parts, strict=True)]
    axes.margins(x=0.05)
    _names(axes, found)
    axes.set_xlabel("megabytes (10⁶ bytes)", fontsize=9)
    if any(left):
        _legend(axes, 2)


def _bar_plot(name: str, title: str, unit: str, found: Sequence[Figure], value: Callable[[Figure], float]) -> Plot:
    def draw(axes: Axes) -> None:
        values = [value(each) for each in found]
        hatches = ["////" if each.oversubscribed else "" for each in found]
        faces = ["white" if each.oversubscribed else _COLORS[0] for each in found]
        bars = axes.barh(range(len(found)), values, height=0.62, color=faces, edgecolor=_COLORS[0], hatch=hatches)
        axes.bar_label(bars, labels=[f"{each:.3g}" for each in values], padding=3, fontsize=8)
        axes.margins(x=0.15)
        _names(axes, found)
        axes.set_xlabel(unit, fontsize=9)

    return _plot(name, title, _bars_height(found) - 0.2, draw)


def _names(axes: Axes, found: Sequence[Figure]) -> None:
    axes.set_yticks(range(len(found)), [f"{each.name}{' *' if each.oversubscribed else ''}" for each in found], fontsize=8)
    axes.set_ylim(len(found) - 0.4, -0.6)  # the first on top
    axes.set_xlim(left=0)
    if any(each.oversubscribed for each in found):
        axes.annotate(f"* {OVERSUBSCRIBED}", (1, 1.01), xycoords="axes fraction", ha="right", va="bottom", fontsize=8, color="#5d6774")
