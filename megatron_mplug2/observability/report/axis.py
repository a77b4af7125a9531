"""Axes: where a value lies between two ends, and ticks that people read."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Scale(StrEnum):
    LINEAR = "linear"
    LOG = "log"


@dataclass(frozen=True, kw_only=True)
class Axis:
    low: float
    high: float
    scale: Scale
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        if self.scale is Scale.LOG:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(low: float, high: float, most_ticks: int) -> Axis:
    """From a tick at or below `low` to one at or above `high`."""
    if high <= low:  # one value only
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _step(high - low, most_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], scale=Scale.LINEAR, ticks=ticks)


def log_axis(low: float, high: float, most_ticks: int) -> Axis:
    """From `low` to `high`, both above zero, or to whole powers of ten around them where they lie far apart."""
    decades = math.log10(high / low)
    if decades < 1:  # ticks at 1, 2 and 5 would be too few
        around = linear_axis(low, high, most_ticks)
        inside = tuple(tick for tick in around.ticks if tick > 0)
        return Axis(low=min(low, inside[0]), high=inside[-1], scale=Scale.LOG, ticks=inside)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / (most_ticks - 1))
    ticks = tuple(10.0**power for power in range(first, last + 1, every))
    return Axis(low=10.0**first, high=max(10.0**last, ticks[-1]), scale=Scale.LOG, ticks=ticks)


def inner_ticks(first: float, last: float, most: int) -> Axis:
    """An axis that ends where its values do, with whole ticks inside."""
    last = max(last, first + 1)
    step = max(1.0, _step(last - first, most))
    ticks = tuple(number * step for number in range(math.ceil(first / step), math.floor(last / step) + 1))
    return Axis(low=first, high=last, scale=Scale.LINEAR, ticks=ticks or (first,))


def _step(span: float, most: int) -> float:
    """1, 2 or 5 times a power of ten that cuts the span into fewer than `most` parts."""
    rough = span / max(most - 1, 1)
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def short(value: float) -> str:
    """In at most seven letters or so, three digits of them right: 0.0005 is 5e-4, 12,000 is 12k."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 1e-3 or size >= 1e15:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{_three(value / (unit if unit > 1e4 else 1e3))}{letter}"
    return _three(value)


def _three(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
