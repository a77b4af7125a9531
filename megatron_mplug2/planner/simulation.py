"""A discrete-event simulation of a step's passes through the pipeline: when each stage works on what, and when it waits.

A stage does its work in the schedule's order, each piece as soon as it is done with the one before and has what the piece reads: the
neighbour's message, which arrives some time after the neighbour is done. The sender goes on meanwhile; in NCCL it may have to wait until
the receiver is there, which costs nothing where the receiver is what everything waits for.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_mplug2.planner.schedule import Kind, Order, Work, feature_order, one_forward_one_backward


@dataclass(frozen=True, kw_only=True)
class PassTimes:
    """Seconds of one microbatch."""

    forward: tuple[float, ...]
    """Of each stage."""
    backward: tuple[float, ...]
    """Of each stage; recomputed activations are in it."""
    messages: tuple[float, ...]
    """From each stage but the last to the next one; a gradient takes as long back."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A stage's work from begin to end, in seconds since the step's begin."""

    stage: int
    work: Work
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    stages: int
    events: tuple[Event, ...]
    """By begin."""
    duration: float
    """Seconds; what follows the last event is in it (`then`)."""

    def of(self, stage: int) -> tuple[Event, ...]:
        return tuple(event for event in self.events if event.stage == stage)

    def busy(self, stage: int) -> float:
        """Seconds of work."""
        return sum(event.end - event.begin for event in self.of(stage))

    @property
    def idle(self) -> float:
        """Share of the stages' time without work."""
        return 1 - sum(map(self.busy, range(self.stages))) / (self.stages * self.duration)

    def then(self, pause: float, other: "Timeline | None" = None) -> "Timeline":
        """Another timeline after this one, `pause` seconds later; without another the pause alone."""
        begin = self.duration + pause
        if other is None:
            return replace(self, duration=begin)
        later = (replace(event, begin=event.begin + begin, end=event.end + begin) for event in other.events)
        return Timeline(stages=max(self.stages, other.stages), events=(*self.events, *later), duration=begin + other.duration)


NOTHING = Timeline(stages=0, events=(), duration=0.0)


def training_timeline(times: PassTimes, microbatches: int) -> Timeline:
    """Forward and backward of all microbatches, 1F1B."""
    stages = len(times.forward)
    return simulate([one_forward_one_backward(stages, stage, microbatches) for stage in range(stages)], times)


def feature_timeline(times: PassTimes, microbatches: int) -> Timeline:
    """The feature pass, over the stages up to the one with the contrastive head: `times` is theirs."""
    return simulate([feature_order(microbatches)] * len(times.forward), times)


def simulate(orders: Sequence[Order], times: PassTimes) -> Timeline:
    """Raises ValueError where stages wait for one another for ever, which no schedule of this module makes them do."""
    running = _Run(orders, times)
    return Timeline(stages=len(orders), events=tuple(running.events()), duration=running.now)


class _Run:
    def __init__(self, orders: Sequence[Order], times: PassTimes) -> None:
        self._orders, self._times = orders, times
        self._next = [0] * len(orders)
        self._busy = [False] * len(orders)
        self._arrived: set[tuple[int, Work]] = set()
        """(stage, work) of which what comes from a neighbour is there."""
        self._due: list[tuple[float, int, str, int, Work]] = []
        """What is to happen: (time, number, "end" or "arrival", stage, work). Numbers keep simultaneous ones in order."""
        self._numbers = 0
        self.now = 0.0

    def events(self) -> list[Event]:
        made = [event for stage in range(len(self._orders)) for event in self._start(stage)]
        while self._due:
            self.now, _, what, stage, work = heapq.heappop(self._due)
            if what == "end":
                self._busy[stage] = False
                self._send(stage, work)
            else:
                self._arrived.add((stage, work))
            made += self._start(stage)
        if any(done < len(order) for done, order in zip(self._next, self._orders, strict=True)):
            raise ValueError(f"stages wait for one another after {len(made)} pieces of work")
        return made

    def _start(self, stage: int) -> list[Event]:
        """The stage's next work, if it can begin now."""
        order, place = self._orders[stage], self._next[stage]
        if self._busy[stage] or place == len(order) or not self._has_input(stage, order[place]):
            return []
        work = order[place]
        seconds = (self._times.backward if work.kind is Kind.BACKWARD else self._times.forward)[stage]
        self._busy[stage], self._next[stage] = True, place + 1
        self._schedule(self.now + seconds, "end", stage, work)
        return [Event(stage=stage, work=work, begin=self.now, end=self.now + seconds)]

    def _has_input(self, stage: int, work: Work) -> bool:
        source = len(self._orders) - 1 if work.kind is Kind.BACKWARD else 0  # it makes its input itself
        return stage == source or (stage, work) in self._arrived

    def _send(self, stage: int, work: Work) -> None:
        to = stage + (-1 if work.kind is Kind.BACKWARD else 1)
        if 0 <= to < len(self._orders):
            self._schedule(self.now + self._times.messages[min(stage, to)], "arrival", to, work)

    def _schedule(self, at: float, what: str, stage: int, work: Work) -> None:
        heapq.heappush(self._due, (at, self._numbers, what, stage, work))
        self._numbers += 1
