"""What is drawn of a run: curves over its steps, in one or more charts that share the steps."""

from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.observability.report.axis import Axis, Scale, inner_ticks
from megatron_mplug2.observability.report.series import Series


class Style(StrEnum):
    LINE = "line"
    SMOOTHED = "smoothed"
    """Faint as it was logged, and above it a running mean."""
    POINTS = "points"
    """Measured now and then."""
    AREA = "area"
    """One on another, as parts of a whole; a part that was not logged at a step is zero there."""


@dataclass(frozen=True, kw_only=True)
class Line:
    label: str
    color: int
    """Number of the stylesheet's color."""
    series: Series
    style: Style = Style.LINE


@dataclass(frozen=True, kw_only=True)
class Chart:
    title: str
    unit: str
    """What the upright axis counts, with its unit."""
    lines: tuple[Line, ...]
    scale: Scale = Scale.LINEAR
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the charts of a page have in common."""

    first: int
    last: int
    """Steps."""
    phases: tuple[int, ...] = ()
    """Steps at which another phase of the schedule begins."""

    @property
    def axis(self) -> Axis:
        return inner_ticks(self.first, self.last, 5)
