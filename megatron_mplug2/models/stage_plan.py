"""What is known of a run's pipeline stages before anything starts: their share of the work, and how long they stand idle in a step."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.stage_cuts import balanced_starts, stage_sums, step_time
from megatron_mplug2.models.workload import feature_pass, feature_passes, passes, step_shares, training_pass


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """One kind of step, in operations a stage: what takes time where every rank does so many a second, and messages take none."""

    shape: BatchShape
    share: float
    """Of the run's steps."""
    loads: tuple[float, ...]
    """Of each stage for all microbatches, every pass of the step."""
    slowest: float
    """The step if each pass took its slowest stage's time for all microbatches, and no more."""
    duration: float
    """The step with the filling and draining of the pipeline in each pass."""

    @property
    def idle(self) -> float:
        """Share of the ranks' time."""
        return 1 - sum(self.loads) / (len(self.loads) * self.duration)

    @property
    def bubble(self) -> float:
        """Share of the step in which the pipeline fills and drains; the rest of `idle` is imbalance."""
        return 1 - self.slowest / self.duration


def step_times(config: RunConfig, partition: Partition) -> tuple[StepTimes, ...]:
    """Of every kind of step in the schedule."""
    return tuple(_times(config, partition, shape, share) for shape, share in step_shares(config).items())


def _times(config: RunConfig, partition: Partition, shape: BatchShape, share: float) -> StepTimes:
    costs = [training_pass(config, shape), *[feature_pass(config, shape)] * feature_passes(config, shape.task)]
    sums = [stage_sums(one, partition.starts) for one in costs]
    count = config.microbatches
    return StepTimes(
        shape=shape,
        share=share,
        loads=tuple(count * load for load in map(sum, zip(*sums, strict=True))),
        slowest=count * sum(max(one) for one in sums),
        # A microbatch passes every stage once; the others follow at the pace of the slowest.
        duration=sum(sum(one) + (count - 1) * max(one) for one in sums),
    )


def in_time(times: Sequence[StepTimes], parts: Sequence[float]) -> float:
    """The mean over the run's time of a share that each kind of step has: its idle time, its bubble."""
    durations = [one.share * one.duration for one in times]
    return sum(duration * part for duration, part in zip(durations, parts, strict=True)) / sum(durations)


def mixture(times: Sequence[StepTimes]) -> tuple[float, ...]:
    """Share of each stage in the run's operations."""
    loads = [
        sum(one.share * load for one, load in zip(times, stage, strict=True)) for stage in zip(*(one.loads for one in times), strict=True)
    ]
    return tuple(load / sum(loads) for load in loads)


def mean_load_starts(config: RunConfig) -> tuple[int, ...]:
    """The cut whose dearest stage is cheapest in the mean over all steps: what `make_partition`'s is compared with."""
    work = passes(config)
    return balanced_starts(
        [sum(one.weight * one.costs[unit] for one in work) for unit in range(len(work[0].costs))], config.layout.pipeline
    )


def even_starts(partition: Partition) -> tuple[int, ...]:
    """The cut into stages of as many layers, as a pipeline has that counts no operations. Embeddings and heads count nothing."""
    return balanced_starts([_is_layer(unit.name) for unit in partition.units], len(partition.starts))


def _is_layer(unit: str) -> bool:
    return unit.rpartition(".")[2].isdecimal()


def pace(config: RunConfig, starts: tuple[int, ...]) -> float:
    """Mean time of a step of many microbatches at a cut, over that at stages which are even in every pass."""
    work = passes(config)
    return step_time(work, starts) * config.layout.pipeline / sum(one.weight * sum(one.costs) for one in work)
