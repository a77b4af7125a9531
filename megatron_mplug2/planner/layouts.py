"""Which layouts of so many GPUs a run could have, how quick the model of step time takes each to be, and why the others fall out."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from pydantic import ValidationError

from megatron_mplug2.config.layout import EngineChoice
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.memory_fit import GB, STAGES, TENSOR_SIZES
from megatron_mplug2.models.partition import Partition, make_partition
from megatron_mplug2.models.stage_memory import RankMemory, stage_memory
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.step_time import StepModel, StepParts, mean_parts, step_models, utilisation

RECOMPUTE = ("full", "none")


@dataclass(frozen=True, kw_only=True)
class Option:
    """A layout with the microbatch and recompute that make it quickest of those that fit."""

    config: RunConfig
    models: tuple[StepModel, ...]
    memory: RankMemory
    """Of the rank that needs most."""
    mfu: float

    @property
    def parts(self) -> StepParts:
        """Of the mean step."""
        return mean_parts(self.models)

    @property
    def samples_per_second(self) -> float:
        return self.config.training.global_batch / self.parts.total

    @property
    def idle(self) -> float:
        """Share of the GPUs' time outside forward and backward passes."""
        return sum(one.share * one.parts.total * one.timeline.idle for one in self.models) / self.parts.total


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    tensor: int
    pipeline: int
    data: int
    reason: str
    too_large: bool
    """For the memory of a device, as the reason tells."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    options: tuple[Option, ...]
    """The quickest first."""
    left_out: tuple[LeftOut, ...]


def compare_layouts(config: RunConfig, cluster: Cluster, memory: float) -> Comparison:
    """Every tensor size within a node with every number of stages; the rest is data parallel. The global batch stays as it is.

    `memory`: bytes of a device. Raises UserError for an engine that the model does not know, and where the GPU's profile says nothing of
    the precision or of so many ranks.
    """
    cluster.rates(config)
    if config.training.engine is not EngineChoice.MEGATRON:
        raise UserError(f"training.engine={config.training.engine}: layouts are compared for megatron alone, set training.engine=megatron")
    options, left_out = [], []
    for tensor, pipeline, data in _sizes(cluster):
        try:
            options.append(_quickest(config, cluster, memory, (tensor, pipeline, data)))
        except _FallsOutError as reason:
            too_large = isinstance(reason, _TooLargeError)
            left_out.append(LeftOut(tensor=tensor, pipeline=pipeline, data=data, reason=str(reason), too_large=too_large))
    return Comparison(options=tuple(sorted(options, key=lambda option: option.parts.total)), left_out=tuple(left_out))


class _FallsOutError(Exception):
    """Why a layout cannot be had."""


class _TooLargeError(_FallsOutError):
    """A device's memory is too small for it."""


Sizes = tuple[int, int, int]
"""Tensor, pipeline, data."""


def _sizes(cluster: Cluster) -> Iterator[Sizes]:
    for tensor in TENSOR_SIZES:
        for pipeline in STAGES:
            if cluster.node % tensor == 0 and cluster.gpus % (tensor * pipeline) == 0:
                yield tensor, pipeline, cluster.gpus // (tensor * pipeline)


def _quickest(config: RunConfig, cluster: Cluster, memory: float, sizes: Sizes) -> Option:
    """Raises _FallsOutError."""
    candidates = list(_candidates(config, sizes))
    smallest, its_partition = candidates[0]
    needed = _most_loaded(smallest, its_partition)
    if needed.total > memory:
        raise _TooLargeError(_too_large(smallest, needed))
    timed = [(step_models(changed, cluster, partition), changed, partition) for changed, partition in candidates]
    for models, changed, partition in sorted(timed, key=lambda one: mean_parts(one[0]).total):
        needed = _most_loaded(changed, partition)
        if needed.total <= memory:
            return Option(config=changed, models=models, memory=needed, mfu=utilisation(models, changed, cluster))
    raise AssertionError("the smallest fits")


def _candidates(config: RunConfig, sizes: Sizes) -> Iterator[tuple[RunConfig, Partition]]:
    """What needs least memory first. The cut for one size of microbatch is that for all, but for rounding."""
    for recompute in RECOMPUTE:
        partition: Partition | None = None
        for microbatch in microbatches(config, sizes[2]):
            changed = _changed(config, sizes, microbatch, recompute)
            partition = partition or make_partition(changed)
            yield changed, partition


def _most_loaded(config: RunConfig, partition: Partition) -> RankMemory:
    return max(stage_memory(config, partition), key=lambda rank: rank.total)


def _too_large(config: RunConfig, needed: RankMemory) -> str:
    part = max(fields(needed), key=lambda field: getattr(needed, field.name)).name
    recompute = "full" if config.training.recompute else "none"
    return (
        f"needs at least {needed.total / GB:.1f} GB on a rank (microbatch {config.training.microbatch}, recompute {recompute}; "
        f"largest part: {part}, {getattr(needed, part) / GB:.1f})"
    )


def indivisible(config: RunConfig) -> int:
    """Samples that stay together on one replica."""
    group = config.objectives.vlm.group
    return group if config.training.microbatch % group == 0 else 1


def microbatches(config: RunConfig, data: int) -> tuple[int, ...]:
    """Sizes to be tried: doublings of the least that keeps VLM's groups whole, as far as they divide a replica's samples.

    Raises _FallsOutError where there is none.
    """
    whole, unit = config.training.global_batch, indivisible(config)
    share, rest = divmod(whole, data)
    sizes = [unit * 2**power for power in range(share.bit_length()) if share and share % (unit * 2**power) == 0]
    if rest or not sizes:
        whole_groups = f"whole groups of {unit} samples" if unit > 1 else "whole samples"
        raise _FallsOutError(f"training.global_batch={whole} cannot be shared out to {data} replicas in {whole_groups}")
    return tuple(sizes)


def _changed(config: RunConfig, sizes: Sizes, microbatch: int, recompute: str) -> RunConfig:
    """Raises _FallsOutError where it isn't a config that can run."""
    tensor, pipeline, data = sizes
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree["layout"] |= {"tensor": tensor, "pipeline": pipeline, "data": data, "sequence_parallel": tensor > 1, "stage_starts": None}
    tree["training"] |= {"microbatch": microbatch, "recompute": recompute}
    errors: list[str] = []
    try:
        changed = RunConfig.model_validate(tree, context=errors)
    except ValidationError as error:
        errors = [detail["msg"] for detail in error.errors()]
    if errors:
        raise _FallsOutError(errors[0])
    return changed
