"""The model as a chain of units over named streams: what a unit reads and writes, and what is alive where the chain is cut.

A pipeline stage is a contiguous slice of the chain. Each stream has one shape per kind of step, so that what crosses a cut is known
to both sides without a word between them.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.shapes import Stream

Streams = dict[Stream, torch.Tensor]

HEADS = "heads"
"""What the names of units begin with that end in a loss; those of others begin with their kind of block."""


@dataclass(frozen=True)
class Flow:
    """What a unit does in a step: streams that it reads, streams that it writes. An empty flow: the unit is idle."""

    reads: tuple[Stream, ...] = ()
    writes: tuple[Stream, ...] = ()
    idle: bool = False


IDLE = Flow(idle=True)


@dataclass(frozen=True)
class Origin:
    """What a written stream depends on: streams that the unit reads, and modules whose weights it uses."""

    streams: tuple[Stream, ...]
    modules: frozenset[Module]


class Unit(ABC):
    """One link of the chain. It knows its name, builds its module, and runs it on streams."""

    name: str

    @property
    def block(self) -> Block | None:
        """The kind by which recompute is chosen; None for a head, which records a loss and may not run twice."""
        kind = self.name.split(".")[0]
        return None if kind == HEADS else Block(kind)

    @abstractmethod
    def build(self, context: ModelContext, built: Mapping[str, nn.Module]) -> nn.Module:
        """Makes the module; `built` has the modules of the units before it on this stage."""

    @abstractmethod
    def flow(self, task: Task) -> Flow: ...

    def modules(self, task: Task) -> frozenset[Module]:
        """Whose weights it uses in a step of `task` in which it is not idle."""
        return frozenset((Module(self.name.split(".")[0]),))

    def origin(self, written: Stream, task: Task) -> Origin:
        """Of a stream that it writes: everything, if not said otherwise."""
        return Origin(self.flow(task).reads, self.modules(task))

    @abstractmethod
    def run(self, module: nn.Module, streams: Streams, micro: Microbatch) -> Streams:
        """Streams that the unit writes. It may add losses to `micro`."""


def alive_at(units: Sequence[Unit], cut: int, task: Task) -> tuple[Stream, ...]:
    """Streams that cross the cut before `units[cut]` in a step of `task`: written before it and read after it."""
    written = {stream for unit in units[:cut] for stream in unit.flow(task).writes}
    read = {stream for unit in units[cut:] for stream in unit.flow(task).reads}
    return tuple(stream for stream in Stream if stream in written & read)


def grown_before(units: Sequence[Unit], task: Task, frozen: Collection[Module]) -> Iterator[frozenset[Stream]]:
    """Before each unit, and after the last, the streams that a trained weight has gone into: only they have gradients."""
    grown: frozenset[Stream] = frozenset()
    for unit in units:
        yield grown
        origins = {stream: unit.origin(stream, task) for stream in unit.flow(task).writes}
        trained = {stream for stream, origin in origins.items() if grown.intersection(origin.streams) or origin.modules.difference(frozen)}
        grown = (grown - origins.keys()) | trained
    yield grown


def differentiable_at(units: Sequence[Unit], cut: int, task: Task, frozen: Collection[Module]) -> frozenset[Stream]:
    """Of the streams that cross the cut before `units[cut]` those that have gradients."""
    *_, grown = grown_before(units[:cut], task, frozen)
    return grown.intersection(alive_at(units, cut, task))
