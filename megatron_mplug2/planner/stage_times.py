"""Seconds that each pipeline stage takes for one microbatch: in its units, in tensor parallelism's sums, in gradient buffers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from megatron_mplug2.config.model import ModelConfig, Module
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.activations import FP32, element_bytes, kept_bytes
from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.flops import Attention, Product, Work, unit_work
from megatron_mplug2.models.mplug2 import CONTRAST
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.stage_memory import message_bytes
from megatron_mplug2.models.stage_weights import chain_weights, rank_elements
from megatron_mplug2.models.workload import backward_parts, recomputed
from megatron_mplug2.planner.collectives import stage_message, tensor_group
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.rates import PassRates
from megatron_mplug2.planner.reductions import reductions
from megatron_mplug2.planner.simulation import PassTimes


@dataclass(frozen=True)
class Seconds:
    """Of one pass."""

    compute: float = 0.0
    tensor: float = 0.0
    """Sums over tensor-parallel ranks, which nothing else runs beside."""
    buffers: float = 0.0
    """Adding a microbatch's gradients to those before it."""

    @property
    def total(self) -> float:
        return self.compute + self.tensor + self.buffers

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.compute + other.compute, self.tensor + other.tensor, self.buffers + other.buffers)

    def times(self, count: float) -> "Seconds":
        return Seconds(count * self.compute, count * self.tensor, count * self.buffers)


@dataclass(frozen=True, kw_only=True)
class UnitWork:
    """What a unit's forward pass has to do on one rank, without exchanges."""

    pieces: Work
    """Of all tensor-parallel ranks together."""
    kept: float
    """Bytes."""
    launches: int
    """Sublayers, and one for what is around them: where tensor parallelism sums, a sublayer ends."""

    def products(self, rates: PassRates, tensor: int) -> float:
        """Seconds of matrix products and attention."""
        return sum(_piece_seconds(piece, rates, tensor) for piece in self.pieces)

    def seconds(self, rates: PassRates, tensor: int) -> float:
        return self.products(rates, tensor) + self.kept / rates.elementwise + self.launches * rates.launch


def _piece_seconds(piece: Product | Attention, rates: PassRates, tensor: int) -> float:
    flops = piece.flops / tensor
    return flops / (rates.products.at(flops) if isinstance(piece, Product) else rates.attention.at(flops / piece.batch))


def unit_work_of(unit: Unit, shape: BatchShape, config: RunConfig) -> UnitWork:
    """Nothing where the unit is idle in the shape's task."""
    if unit.flow(shape.task).idle:
        return UnitWork(pieces=(), kept=0.0, launches=0)
    return UnitWork(
        pieces=unit_work(unit, shape, config),
        kept=kept_bytes(unit, shape, config),
        launches=1 + len(reductions(unit, shape, config).forward),
    )


def gradient_bytes(unit: Unit, config: RunConfig) -> float:
    """Read and written to add a unit's gradients of one microbatch to the sums, in fp32."""
    return (element_bytes(config) + 2 * FP32) * _trained_elements(config.model, config.training.frozen, config.layout.tensor).get(
        unit.name, 0
    )


@cache
def _trained_elements(model: ModelConfig, frozen: tuple[Module, ...], tensor: int) -> dict[str, int]:
    """Of each unit, on one rank."""
    return {
        unit: sum(rank_elements(weight, tensor) for weight in weights if weight.module not in frozen)
        for unit, weights in chain_weights(model).items()
    }


NONE = Seconds()


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Of every stage, for one microbatch of a shape."""

    forward: tuple[Seconds, ...]
    backward: tuple[Seconds, ...]
    messages: tuple[float, ...]

    @property
    def passes(self) -> PassTimes:
        return PassTimes(
            forward=tuple(one.total for one in self.forward),
            backward=tuple(one.total for one in self.backward),
            messages=self.messages,
        )


def training_times(config: RunConfig, cluster: Cluster, partition: Partition, shape: BatchShape) -> StageTimes:
    """A backward pass has in it what it makes again of recomputed activations."""
    model = _Model(config, cluster, shape)
    stages = [partition.stage_units(stage) for stage in range(config.layout.pipeline)]
    return StageTimes(
        forward=tuple(_sum(map(model.forward, units)) for units in stages),
        backward=tuple(_sum(map(model.backward, units)) for units in stages),
        messages=_messages(config, cluster, partition, shape),
    )


def feature_times(config: RunConfig, cluster: Cluster, partition: Partition, shape: BatchShape) -> StageTimes:
    """Forward, of the stages up to the one with the contrastive head, and on that one up to the head."""
    model, owner = _Model(config, cluster, shape), partition.roles.features
    stages = [list(partition.stage_units(stage)) for stage in range(owner + 1)]
    last = next(place for place, unit in enumerate(stages[owner]) if unit.name == CONTRAST)
    stages[owner] = stages[owner][: last + 1]
    return StageTimes(
        forward=tuple(_sum(map(model.forward, units)) for units in stages),
        backward=(NONE,) * (owner + 1),
        messages=_messages(config, cluster, partition, shape)[:owner],
    )


def _sum(parts: Iterable[Seconds]) -> Seconds:
    return sum(parts, start=NONE)


def _messages(config: RunConfig, cluster: Cluster, partition: Partition, shape: BatchShape) -> tuple[float, ...]:
    """All streams that cross a cut go in one message."""
    sizes = (
        sum(message_bytes(config, partition, partition.cut_after(stage), shape).values()) for stage in range(config.layout.pipeline - 1)
    )
    return tuple(stage_message(config.layout, cluster, stage, size) for stage, size in enumerate(sizes))


class _Model:
    """Seconds of units."""

    def __init__(self, config: RunConfig, cluster: Cluster, shape: BatchShape) -> None:
        self._config, self._shape = config, shape
        self._group = tensor_group(config.layout, cluster)
        self._rates = cluster.rates(config)
        self._parts = backward_parts(config, shape.task)
        self._hides = cluster.gpu.measured is None

    def forward(self, unit: Unit) -> Seconds:
        return Seconds(self._work(unit, self._rates.forward), self._sums(reductions(unit, self._shape, self._config).forward, gathers=1))

    def backward(self, unit: Unit) -> Seconds:
        """No sums where nothing in front is trained, and nothing made again where nothing is trained at all."""
        parts = self._parts[unit.name]
        if not parts:
            return NONE
        whole, sums = self._work(unit, self._rates.backward), reductions(unit, self._shape, self._config).backward
        buffers = 0.0 if unit.flow(self._shape.task).idle else gradient_bytes(unit, self._config) / self._rates.memory
        again = self.forward(unit) if recomputed(self._config, unit) else NONE
        # Of the two parts, gradients of what came in and of the weights, a frozen or a first unit has one.
        return Seconds(parts * whole, self._sums(sums, gathers=1 if self._hides else 2), buffers) + again

    def _work(self, unit: Unit, rates: PassRates) -> float:
        return unit_work_of(unit, self._shape, self._config).seconds(rates, self._config.layout.tensor)

    def _sums(self, sizes: Sequence[int], gathers: int) -> float:
        """With sequence parallelism a backward pass gathers a second time, what came in, beside a product that hides it on a GPU."""
        group, split = self._group, self._config.layout.sequence_parallel
        whole = [element_bytes(self._config) * size for size in sizes]
        return sum(group.reduce_scatter(size) + gathers * group.all_gather(size) if split else group.all_reduce(size) for size in whole)
