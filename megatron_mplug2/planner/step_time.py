"""A model of a step's time on hardware that is not here: the simulated schedule, and what comes before the next step's.

It is a sum of sizes over rates: measured ones (`mplug2 bench calibrate`), or of a data sheet with assumed shares of what hardware can do
(`hardware.Efficiency`, `collectives.LINK_SHARE`). The loader, the similarities of VLC, tied embeddings, averages of weights and
stragglers take no time here, nor do, with assumed shares, launches of kernels; and what runs beside passes does not slow them: small
microbatches on many tensor-parallel ranks look better than they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.activations import FP32, element_bytes
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.models.workload import backward_parts, feature_passes, step_shares
from megatron_mplug2.objectives.weighted import contrasts, weighted
from megatron_mplug2.planner.collectives import Group, data_group
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.simulation import NOTHING, Timeline, feature_timeline, training_timeline
from megatron_mplug2.planner.stage_times import NONE, Seconds, StageTimes, feature_times, training_times

ADAM_BYTES = 7 * FP32
"""An element: reads gradient, weight and two moments, writes the last three; all in fp32."""
CLIP_BYTES = 3 * FP32
"""An element: its gradient is read for the norm, and read and written to be scaled."""
WHOLE_BYTES = 2 * FP32
"""An element of all gradients, whatever ZeRO-1 shares out: set to zero before the step, and read to see that they are finite."""


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """Seconds of a step, the mean over the stages; they add up to the step."""

    compute: float
    tensor: float
    """Sums over tensor-parallel ranks."""
    buffers: float
    """Adding each microbatch's gradients to those before it."""
    features: float
    """Passes without gradients, the wait for their stages in it, and the gathering of features."""
    waiting: float
    """Filling and draining of the pipeline, uneven stages, messages."""
    gradients: float
    """Reduction over data-parallel ranks, as far as no backward pass hides it."""
    optimizer: float
    """Clipping and the update, and a look at all gradients."""
    weights: float
    """Gathering of updated weights, as far as no forward pass hides it."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """One kind of step."""

    shape: BatchShape
    share: float
    """Of the run's steps."""
    flops: float
    """That the model asks for in a step, as MFU counts them."""
    timeline: Timeline
    parts: StepParts


def step_models(config: RunConfig, cluster: Cluster, partition: Partition) -> tuple[StepModel, ...]:
    """Of every kind of step in the schedule."""
    end = _End.of(config, cluster, partition)
    return tuple(_model(config, cluster, partition, shape, share, end) for shape, share in step_shares(config).items())


def mean_parts(models: Sequence[StepModel]) -> StepParts:
    """Of the run's steps."""
    return StepParts(**{field.name: sum(one.share * getattr(one.parts, field.name) for one in models) for field in fields(StepParts)})


def utilisation(models: Sequence[StepModel], config: RunConfig, cluster: Cluster) -> float:
    """MFU over the run: the model's operations over what the GPUs could do in the time."""
    seconds = sum(one.share * one.parts.total for one in models)
    return sum(one.share * one.flops for one in models) / (seconds * cluster.gpus * cluster.gpu.peak[config.training.precision])


def _model(config: RunConfig, cluster: Cluster, partition: Partition, shape: BatchShape, share: float, end: "_End") -> StepModel:
    features = _features(config, cluster, partition, shape)
    times = training_times(config, cluster, partition, shape)
    training = training_timeline(times.passes, config.microbatches)
    gradients = end.reduced(training, times) - training.duration
    weights = end.gathered(times)
    work = _mean_work(times).times(config.microbatches)
    parts = StepParts(
        compute=work.compute,
        tensor=work.tensor,
        buffers=work.buffers,
        features=features.duration,
        waiting=max(0.0, training.duration - work.total),  # not less by rounding
        gradients=gradients,
        optimizer=max(end.optimizer),
        weights=weights,
    )
    timeline = features.then(0.0, training).then(gradients + parts.optimizer + weights)
    return StepModel(shape=shape, share=share, flops=_step_flops(config, shape), timeline=timeline, parts=parts)


def _features(config: RunConfig, cluster: Cluster, partition: Partition, shape: BatchShape) -> Timeline:
    """Each pass, and the gathering of both modalities' features in fp32 over the data-parallel ranks, which also a step without such a
    pass makes, between its forward and its backward."""
    timeline = NOTHING
    if not contrasts(weighted(config.objectives), shape.task):
        return timeline
    size = config.training.global_batch * 2 * FP32 * config.model.contrastive_width
    gather = data_group(config.layout, cluster).all_gather(size)
    count = feature_passes(config, shape.task)
    if not count:
        return timeline.then(gather)
    times = feature_times(config, cluster, partition, shape)
    for _ in range(count):
        timeline = timeline.then(0.0, feature_timeline(times.passes, config.microbatches)).then(gather)
    return timeline


def _mean_work(times: StageTimes) -> Seconds:
    stages = len(times.forward)
    return sum((*times.forward, *times.backward), start=NONE).times(1 / stages)


def _step_flops(config: RunConfig, shape: BatchShape) -> float:
    """As `observability.efficiency.StepFlops` counts them: recomputed activations and the feature pass are not in it."""
    backward = backward_parts(config, shape.task)
    units = sum(unit_flops(unit, shape, config) * (1 + backward[unit.name]) for unit in run_chain(config))
    return units * config.microbatches * config.layout.data


@dataclass(frozen=True, kw_only=True)
class _End:
    """What follows the last backward pass, by stage; seconds where nothing runs beside it."""

    config: RunConfig
    reduction: tuple[float, ...]
    optimizer: tuple[float, ...]
    gathering: tuple[float, ...]

    @classmethod
    def of(cls, config: RunConfig, cluster: Cluster, partition: Partition) -> "_End":
        group, layout = data_group(config.layout, cluster), config.layout
        trained = [_trained(config, partition, stage) for stage in range(layout.pipeline)]
        elements = [sum(rank_elements(weight, layout.tensor) for weight in weights) for weights in trained]
        shared = layout.data if layout.zero1 else 1
        rates = cluster.rates(config)
        return cls(
            config=config,
            reduction=tuple(_reduction(config, group, FP32 * count) for count in elements),
            optimizer=tuple(
                updated_bytes(config, count, shared) / rates.memory + rates.tensor * tensors / shared
                for count, tensors in zip(elements, map(len, trained), strict=True)
            ),
            gathering=tuple(group.all_gather(element_bytes(config) * count) if layout.zero1 else 0.0 for count in elements),
        )

    def reduced(self, training: Timeline, times: StageTimes) -> float:
        """When the last stage's gradients are reduced. Beside it runs at most the last microbatch's backward pass."""
        hidden = [one.total if self.config.layout.overlap_grad_reduce else 0.0 for one in times.backward]
        ends = (training.of(stage)[-1].end + max(0.0, seconds - hidden[stage]) for stage, seconds in enumerate(self.reduction))
        return max(ends)

    def gathered(self, times: StageTimes) -> float:
        """Beside it runs at most the next step's first forward pass, taken for one as this step's."""
        hidden = [one.total if self.config.layout.overlap_param_gather else 0.0 for one in times.forward]
        return max(max(0.0, seconds - hidden[stage]) for stage, seconds in enumerate(self.gathering))


def updated_bytes(config: RunConfig, elements: int, shared: int = 1) -> float:
    """Read and written to check, clip and update a rank's gradients, of which ZeRO-1 shares most out to `shared` ranks."""
    kept = element_bytes(config) if config.training.precision is Precision.BF16 else 0  # the weights beside the main ones
    return (WHOLE_BYTES + (CLIP_BYTES + ADAM_BYTES + kept) / shared) * elements


def _reduction(config: RunConfig, group: Group, size: float) -> float:
    return group.reduce_scatter(size) if config.layout.zero1 else group.all_reduce(size)


def _trained(config: RunConfig, partition: Partition, stage: int) -> list[Weight]:
    weights = stage_weights(config.model, partition, stage)
    return [weight for weight in weights if weight.module not in config.training.frozen]
