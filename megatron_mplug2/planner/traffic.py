"""Bytes that a rank sends in a step, by what they are for, from the sizes of what is exchanged.

Of collectives as rings send them: of n ranks each sends (n - 1) / n of a gathered or scattered size, and twice that of a reduced one. Left
out are a few numbers a row or a step: losses over the split vocabulary, norms, counts, drawn rows, gradients of norms that sequence
parallelism sums, samples' ids; and what tensor-parallel ranks hand on of a decoded batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.activations import FP32, element_bytes
from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.mplug2 import CONTRAST, TIES
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.stage_memory import message_bytes
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.models.workload import backward_parts, feature_passes, recomputed, step_shares
from megatron_mplug2.objectives.weighted import contrasts, weighted
from megatron_mplug2.planner.reductions import reductions


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of a rank."""

    tensor: float = 0.0
    """All-reduces of tensor parallelism, or the all-gathers and reduce-scatters of sequence parallelism."""
    pipeline: float = 0.0
    """Messages to the neighbouring stages, and the gradients of tied embeddings whose copies lie on two stages."""
    features: float = 0.0
    """VLC's features of the global batch, gathered over the data-parallel ranks."""
    data: float = 0.0
    """Gradients, reduced over the data-parallel ranks, and with ZeRO-1 the updated weights."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})

    def times(self, share: float) -> "Traffic":
        return Traffic(**{field.name: share * getattr(self, field.name) for field in fields(self)})


def busiest_traffic(config: RunConfig, partition: Partition) -> Traffic:
    """Of the stage whose ranks send most, in the mean step of the run."""
    shares = step_shares(config)
    stages = ([stage_traffic(config, partition, shape, stage).times(share) for shape, share in shares.items()] for stage in _stages(config))
    return max((sum(parts, start=Traffic()) for parts in stages), key=lambda one: one.total)


def stage_traffic(config: RunConfig, partition: Partition, shape: BatchShape, stage: int) -> Traffic:
    """Of each rank of a stage in a step of the shape's task."""
    gathers = stage == partition.roles.features and contrasts(weighted(config.objectives), shape.task)
    size = 2 * FP32 * config.model.contrastive_width * config.training.global_batch
    return Traffic(
        tensor=_tensor(config, partition, shape, stage),
        pipeline=config.microbatches * _messages(config, partition, shape, stage) + _ties(config, partition, stage),
        features=_turn(config.layout.data) * size if gathers else 0.0,
        data=_data(config, partition, stage),
    )


def _stages(config: RunConfig) -> range:
    return range(config.layout.pipeline)


def _turn(ranks: int) -> float:
    """Share of a size that each rank of a ring sends once around."""
    return (ranks - 1) / ranks


def _tensor(config: RunConfig, partition: Partition, shape: BatchShape, stage: int) -> float:
    units, parts = partition.stage_units(stage), backward_parts(config, shape.task)
    head = next(place for place, unit in enumerate(partition.units) if unit.name == CONTRAST)
    before = {unit.name for unit in partition.units[: head + 1]}
    whole = 0.0
    for unit in units:
        again = recomputed(config, unit) and parts[unit.name] > 0
        forwards = 1 + again + (feature_passes(config, shape.task) if unit.name in before else 0)
        whole += forwards * _summed(config, reductions(unit, shape, config).forward, gathers=1)
        if parts[unit.name]:
            whole += _summed(config, reductions(unit, shape, config).backward, gathers=2)
    return config.microbatches * whole


def _summed(config: RunConfig, elements: Sequence[int], gathers: int) -> float:
    """With sequence parallelism a reduce-scatter and so many all-gathers: a backward pass gathers what came in once more."""
    exchanges = 1 + gathers if config.layout.sequence_parallel else 2
    return exchanges * _turn(config.layout.tensor) * element_bytes(config) * sum(elements)


def _messages(config: RunConfig, partition: Partition, shape: BatchShape, stage: int) -> float:
    """Of a microbatch: forward to the next stage, also in passes for features up to those's stage, and gradients to the one before."""
    sent = 0.0
    if stage + 1 < config.layout.pipeline:
        passes = 1 + (feature_passes(config, shape.task) if stage < partition.roles.features else 0)
        sent += passes * _message(config, partition, partition.cut_after(stage), shape)
    if stage and _waited_for(config, partition.units[: partition.cut_before(stage)], shape):
        sent += _message(config, partition, partition.cut_before(stage), shape)
    return sent


def _message(config: RunConfig, partition: Partition, cut: int, shape: BatchShape) -> float:
    return sum(message_bytes(config, partition, cut, shape).values())


def _waited_for(config: RunConfig, units: Sequence[Unit], shape: BatchShape) -> bool:
    """Whether some of the units at work have a gradient to make."""
    parts = backward_parts(config, shape.task)
    return any(parts[unit.name] and not unit.flow(shape.task).idle for unit in units)


def _ties(config: RunConfig, partition: Partition, stage: int) -> float:
    """An all-reduce in fp32 over the two stages of each trained pair."""
    pairs = zip(TIES, partition.roles.ties, strict=True)
    tables = {f"{tie.embedding}.word.weight" for tie, stages in pairs if stage in stages and len(set(stages)) > 1}
    return FP32 * sum(elements for name, elements in _trained(config, partition, stage) if name in tables)


def _data(config: RunConfig, partition: Partition, stage: int) -> float:
    elements = sum(elements for _, elements in _trained(config, partition, stage))
    around = _turn(config.layout.data) * elements
    return around * (FP32 + element_bytes(config) if config.layout.zero1 else 2 * FP32)


def _trained(config: RunConfig, partition: Partition, stage: int) -> list[tuple[str, int]]:
    """Name and elements on a rank of the stage's weights."""
    weights = stage_weights(config.model, partition, stage)
    return [(one.name, rank_elements(one, config.layout.tensor)) for one in weights if one.module not in config.training.frozen]
