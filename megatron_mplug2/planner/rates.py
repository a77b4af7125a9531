"""How quickly a rank does each kind of work: what a data sheet and an assumed share give, or what was measured on a machine."""

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.config.layout import LayoutConfig


@dataclass(frozen=True)
class Curve:
    """A rate that goes by size: between measured points straight in the logarithms of both, outside of them level."""

    points: tuple[tuple[float, float], ...]
    """(size, rate), by size."""

    def at(self, size: float) -> float:
        place = bisect(self.points, size, key=lambda point: point[0])
        if place in (0, len(self.points)):
            return self.points[max(0, place - 1)][1]
        (low, slow), (high, quick) = self.points[place - 1 : place + 1]
        part = math.log(size / low) / math.log(high / low)
        return slow * (quick / slow) ** part


def level(rate: float) -> Curve:
    """The same for every size."""
    return Curve(((1.0, rate),))


@dataclass(frozen=True, kw_only=True)
class PassRates:
    """Of a forward pass, or of one of the two parts of a backward pass: the gradients of what came in, and those of weights."""

    products: Curve
    """Operations a second, by the operations of one matrix product."""
    attention: Curve
    """Operations a second, by the operations of all heads of one sequence."""
    elementwise: float
    """Bytes a second, of those that a pass keeps for its backward (`models.activations`): norms, activations, residuals, softmax."""
    launch: float
    """Seconds that a sublayer takes whatever its size: the calls of its kernels."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    forward: PassRates
    backward: PassRates
    memory: float
    """Bytes a second where large tensors are read and written: gradient buffers and the optimizer."""
    tensor: float
    """Seconds that an update takes a tensor, whatever its size."""


class Exchange(StrEnum):
    """What ranks do together, each of which takes its own time."""

    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    MESSAGE = "message"
    """From one rank to another."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one machine does, by how many of its ranks are at work: they share its memory."""

    rates: Mapping[int, Rates]
    """Of each rank, by the number of ranks."""
    split: Mapping[int, Rates]
    """The same where tensor parallelism splits layers over ranks, without exchanges; empty where it was not measured: as whole ones."""
    sequence: Mapping[int, Rates]
    """And with sequence parallelism."""
    exchanges: Mapping[int, Mapping[Exchange, Curve]]
    """Bytes of the whole tensor a second, by these bytes; by ranks of the group."""

    def rates_of(self, layout: LayoutConfig) -> Mapping[int, Rates]:
        """By the number of ranks at work, each with its part of the layout."""
        if layout.tensor == 1:
            return self.rates
        return (self.sequence if layout.sequence_parallel else self.split) or self.rates

    def exchange_seconds(self, exchange: Exchange, ranks: int, size: float) -> float:
        """In a group of so many ranks, or the next larger one that was measured."""
        measured = next(self.exchanges[count] for count in sorted(self.exchanges) if count >= ranks)
        return size / measured[exchange].at(size)
