"""Seconds that each pipeline stage takes for one microbatch, in products and in tensor parallelism's sums."""

from collections.abc import Iterable
from dataclasses import dataclass

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.activations import element_bytes
from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.mplug2 import CONTRAST
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.stage_memory import message_bytes
from megatron_mplug2.models.workload import backward_parts, recomputed
from megatron_mplug2.planner.collectives import message_seconds, stage_link, tensor_group
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.reductions import reductions
from megatron_mplug2.planner.simulation import PassTimes

COMPUTE_SHARE = 0.5
"""Of the peak that whole blocks reach on one GPU, norms and other elementwise work in their time. An assumption, the same for every size
of microbatch and of the parts that tensor parallelism leaves; the best published models reach 41 to 48 % with all communication."""


@dataclass(frozen=True)
class Seconds:
    """Of one pass."""

    compute: float = 0.0
    tensor: float = 0.0
    """Sums over tensor-parallel ranks, which nothing else runs beside."""

    @property
    def total(self) -> float:
        return self.compute + self.tensor

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.compute + other.compute, self.tensor + other.tensor)

    def times(self, count: float) -> "Seconds":
        return Seconds(count * self.compute, count * self.tensor)


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
    return tuple(message_seconds(stage_link(config.layout, cluster, stage), size) for stage, size in enumerate(sizes))


class _Model:
    """Seconds of units."""

    def __init__(self, config: RunConfig, cluster: Cluster, shape: BatchShape) -> None:
        self._config, self._shape = config, shape
        self._group = tensor_group(config.layout, cluster)
        self._speed = COMPUTE_SHARE * cluster.gpu.peak[config.training.precision] * config.layout.tensor
        self._parts = backward_parts(config, shape.task)

    def forward(self, unit: Unit) -> Seconds:
        sums = reductions(unit, self._shape, self._config).forward
        return Seconds(unit_flops(unit, self._shape, self._config) / self._speed, self._sums(sums))

    def backward(self, unit: Unit) -> Seconds:
        """No sums where nothing in front is trained, and nothing made again where nothing is trained at all."""
        parts = self._parts[unit.name]
        if not parts:
            return NONE
        forward, sums = self.forward(unit), reductions(unit, self._shape, self._config).backward
        again = forward if recomputed(self._config, unit) else NONE
        return Seconds(parts * forward.compute, self._sums(sums)) + again

    def _sums(self, sizes: Iterable[int]) -> float:
        return sum(self._group.all_reduce(element_bytes(self._config) * size) for size in sizes)
