"""Estimated memory of the ranks of a pipeline stage, by what it is for: tensors that live at the peak of a step, counted from sizes.

What a GPU needs beside them (CUDA's context, libraries, fragments) is not in it.
"""

from dataclasses import dataclass, fields
from functools import partial
from math import prod

from megatron_mplug2.config.layout import EngineChoice
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.activations import FP32, element_bytes, kept_bytes
from megatron_mplug2.models.chain import Unit, alive_at
from megatron_mplug2.models.encoder_weights import encoder_weights
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape, Stream, stream_shape
from megatron_mplug2.models.stage_weights import planned_topology, rank_elements, stage_weights
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.models.workload import backward_parts, recomputed, step_shares
from megatron_mplug2.objectives.weighted import contrasts, weighted
from megatron_mplug2.parallel.sequence import SequenceShards

PASSING = 0.5
"""Gradients and intermediate tensors that live beside a unit's activations while it runs backward, as a share of these: 0.2 to 0.6 of
the real units'."""
PASSING_LOGITS = 1.0
"""The same of heads: logits and their gradient beside the softmax in fp32."""
INT64 = 8


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes."""

    weights: float
    gradients: float
    """In fp32, of all of the rank's trained weights: ZeRO-1 shards the optimizer's state alone, DeepSpeed's stages 2 and 3 these too."""
    optimizer: float
    """Adam's moments, and with bf16 or DeepSpeed the main weights, in fp32."""
    averages: float
    """Momentum encoders and their queue; averages of all trained weights."""
    activations: float
    """What microbatches in flight keep for their backward, what they received, and the step's pixels."""
    working: float
    """The dearest unit's recomputed activations and gradients, and messages on their way."""
    contrast: float
    """VLC's gathered features and its block of similarities."""

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))


def stage_memory(config: RunConfig, partition: Partition) -> tuple[RankMemory, ...]:
    """Of a rank of each stage; the ranks of one stage need the same."""
    return tuple(_rank_memory(config, partition, stage) for stage in range(config.layout.pipeline))


def message_bytes(config: RunConfig, partition: Partition, cut: int, shape: BatchShape) -> dict[Stream, int]:
    """What of each stream crosses the cut before unit `cut` of the chain, for one microbatch, between two ranks."""
    sequence = SequenceShards(planned_topology(config.layout))
    alive = alive_at(partition.units, cut, shape.task)
    return {stream: element_bytes(config) * prod(stream_shape(stream, shape, config.model, sequence)) for stream in alive}


def _rank_memory(config: RunConfig, partition: Partition, stage: int) -> RankMemory:
    weights = stage_weights(config.model, partition, stage)
    trained = [weight for weight in weights if weight.module not in config.training.frozen]
    elements = sum(rank_elements(weight, config.layout.tensor) for weight in trained)
    state = 2 + (config.training.precision is Precision.BF16 or config.training.engine is EngineChoice.DEEPSPEED)
    shapes, kept = step_shares(config), _kept(config)
    return RankMemory(
        weights=kept.weights * element_bytes(config) * sum(rank_elements(weight, config.layout.tensor) for weight in weights),
        gradients=kept.gradients * FP32 * elements,
        optimizer=kept.optimizer * FP32 * state * elements,
        averages=_averages(config, partition, stage, trained) + (FP32 * elements if config.training.ema else 0),
        activations=max(_activations(config, partition, stage, shape) for shape in shapes),
        working=max(_working(config, partition, stage, shape) for shape in shapes),
        contrast=_contrast(config) if partition.roles.features == stage and any(map(partial(_contrasts, config), shapes)) else 0,
    )


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Shares that a rank's device keeps, of what data-parallel ranks may share out."""

    weights: float
    gradients: float
    optimizer: float


def _kept(config: RunConfig) -> _Kept:
    share, stage = 1 / config.layout.data, config.deepspeed.zero_stage
    if config.training.engine is EngineChoice.MEGATRON:
        return _Kept(weights=1, gradients=1, optimizer=share if config.layout.zero1 else 1)
    optimizer = 0 if config.deepspeed.offload_optimizer else share
    return _Kept(weights=share if stage == 3 else 1, gradients=share if stage > 1 else 1, optimizer=optimizer)


def _averages(config: RunConfig, partition: Partition, stage: int, trained: list[Weight]) -> float:
    """An average in fp32 of the trained weights that contrastive features are made with, and their queue (`training.momentum`)."""
    vlc, owner = config.objectives.vlc, partition.roles.features
    if not vlc.queued or stage > owner:
        return 0
    averaged = sum(rank_elements(weight, config.layout.tensor) for weight in encoder_weights(trained, partition))
    return FP32 * averaged + (_features(config, vlc.queue.size) if stage == owner else 0)


def _features(config: RunConfig, samples: int) -> float:
    """Of both modalities in fp32, with their two ids."""
    return samples * 2 * (FP32 * config.model.contrastive_width + INT64)


def _contrasts(config: RunConfig, shape: BatchShape) -> bool:
    return contrasts(weighted(config.objectives), shape.task)


def _contrast(config: RunConfig) -> float:
    vlc, samples = config.objectives.vlc, config.training.microbatch * config.microbatches
    rows = config.training.microbatch if vlc.queued else samples
    own = 4 * _features(config, samples)  # as they are, over tau, and the gradients
    return _features(config, config.training.global_batch) + own + FP32 * rows * min(vlc.chunk, config.training.global_batch)


def _activations(config: RunConfig, partition: Partition, stage: int, shape: BatchShape) -> float:
    """1F1B: as many microbatches as there are stages from this one on have gone forward and not yet backward."""
    in_flight = min(config.microbatches, config.layout.pipeline - stage)
    units = partition.stage_units(stage)
    received = message_bytes(config, partition, partition.cut_before(stage), shape)
    backward = backward_parts(config, shape.task)
    inside = sum(kept_bytes(unit, shape, config) for unit in units if backward[unit.name] and not recomputed(config, unit))
    return in_flight * (sum(received.values()) + _between(config, units, shape) + inside) + _pixels(config, stage, shape)


def _between(config: RunConfig, units: tuple[Unit, ...], shape: BatchShape) -> float:
    """Streams that units hand on within the stage, each in every version that is read; but between frozen ones, which keep none."""
    sequence = SequenceShards(planned_topology(config.layout))
    flows, backward = [unit.flow(shape.task) for unit in units], backward_parts(config, shape.task)
    total = 0
    for place, flow in enumerate(flows):
        for stream in flow.writes:
            toucher = next((later for later in range(place + 1, len(flows)) if stream in (*flows[later].reads, *flows[later].writes)), None)
            if toucher is None or stream not in flows[toucher].reads:
                continue
            if backward[units[place].name] or backward[units[toucher].name]:
                total += element_bytes(config) * prod(stream_shape(stream, shape, config.model, sequence))
    return total


def _pixels(config: RunConfig, stage: int, shape: BatchShape) -> float:
    """Bytes of all of the rank's microbatches, which are on the device from the step's begin on."""
    if stage > 0 or shape.task is Task.TEXT:
        return 0
    pictures = config.microbatches * shape.samples * shape.frames
    return pictures * shape.patches * 3 * config.model.vision.patch**2


def _working(config: RunConfig, partition: Partition, stage: int, shape: BatchShape) -> float:
    sent = message_bytes(config, partition, partition.cut_after(stage), shape)
    backward = backward_parts(config, shape.task)
    again = max(kept_bytes(unit, shape, config) * _passing(config, unit, backward[unit.name]) for unit in partition.stage_units(stage))
    return again + 2 * sum(sent.values())  # there, and its gradient back


def _passing(config: RunConfig, unit: Unit, backward: int) -> float:
    """`backward`: of `backward_parts`; without one nothing is made again."""
    return (backward > 0 and recomputed(config, unit)) + (PASSING_LOGITS if unit.name.startswith("heads.") else PASSING)
