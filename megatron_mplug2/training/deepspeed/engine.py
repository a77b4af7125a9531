"""DeepSpeed in the place of Megatron-Core's data parallelism and optimizer: the same stage, weights, rates and checkpoints."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.build import LOG_TEMPERATURE, build_stage
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.partition import Partition, make_partition
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.objectives.contrastive import clamp_log_temperature_
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.parallel.topology import Topology, make_topology
from megatron_mplug2.training.deepspeed.library import initialise
from megatron_mplug2.training.deepspeed.optimizer import ZeroOptimizer, make_adamw
from megatron_mplug2.training.deepspeed.shards import REFUSED, PartitionedWeights, ReplicatedWeights, Shards
from megatron_mplug2.training.norms import gradient_norms
from megatron_mplug2.training.optimizer import LearningRate
from megatron_mplug2.training.pipeline_stage import PipelineStage

WEIGHTS_STAGE = 3
"""The stage at which weights are sharded too."""
EVALUATION = -1
"""In the place of a module's id among those that use a weight: DeepSpeed releases none that is in use."""


@dataclass(frozen=True, kw_only=True)
class DeepSpeedEngine:
    """A `TrainingEngine` on one pipeline stage."""

    config: RunConfig
    partition: Partition
    topology: Topology
    context: ModelContext
    stage: Stage
    pipeline_stage: PipelineStage
    deepspeed: Any
    """DeepSpeed's engine around `pipeline_stage`."""
    shards: Shards
    optimizer: ZeroOptimizer
    learning_rate: LearningRate
    weights: list[Weight]
    clock: SectionClock
    momentum: None = None
    averages: tuple[()] = ()
    needs_media: bool = True

    @property
    def log_temperature(self) -> torch.Tensor:
        return self.shards.whole(self._temperature.param)

    @property
    def _temperature(self) -> Weight:
        return next(weight for weight in self.weights if weight.name == LOG_TEMPERATURE)

    def zero_gradients(self) -> None:
        self.shards.forget_gradients()

    @torch.no_grad()
    def run_features(self, micros: Sequence[Microbatch]) -> list[torch.Tensor]:
        return [self.pipeline_stage(micro) for micro in micros]

    def run_microbatches(self, micros: Sequence[Microbatch], *, forward_only: bool) -> None:
        if forward_only:
            self.run_features(micros)
            return
        for number, micro in enumerate(micros, 1):
            self.deepspeed.set_gradient_accumulation_boundary(number == len(micros))
            # Every loss was divided by its global count already, and DeepSpeed takes means over ranks.
            loss = self.deepspeed(micro) * self.topology.data_size
            self.deepspeed.backward(loss, scale_wrt_gas=False)

    def gradients_are_finite(self) -> bool:
        """The norm tells of all: no rank's part is left out of it, but of weights that tensor-parallel ranks compute alike."""
        return True

    def update(self, step: int, accept: Callable[[float], bool] = lambda norm: True) -> tuple[float, float]:
        """A refused step leaves weights, moments and Adam's count as they were: to DeepSpeed it is one whose norm is no number."""
        rate = self.learning_rate.set(step)
        norm = math.hypot(*gradient_norms(self).values())
        accepted = accept(norm)
        self.shards.norm = norm if accepted else REFUSED
        self.deepspeed.step()
        if accepted:
            self._clamp_temperature()
        return norm, rate

    def _clamp_temperature(self) -> None:
        param, vlc = self._temperature.param, self.config.objectives.vlc
        if not param.requires_grad:
            return
        shard = self.shards.of(param)
        own = [shard.of(shard.flat), shard.part] if shard is not None else []
        for tensor in (param.detach(), *own):
            if tensor is not None:
                clamp_log_temperature_(tensor, vlc)

    def finish_gathering(self) -> None:
        """Nothing overlaps the next forward pass."""

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        if self.config.deepspeed.zero_stage != WEIGHTS_STAGE:
            yield
            return
        params: list[Any] = list(self.pipeline_stage.parameters())
        for param in params:
            param.ds_active_sub_modules.add(EVALUATION)
        params[0].all_gather(param_list=params)
        try:
            yield
        finally:
            self.shards.release()  # forgets who uses them

    def weights_loaded(self) -> None:
        self.shards.release()


def make_engine(config: RunConfig, clock: SectionClock | None = None) -> DeepSpeedEngine:
    """Makes every group, the stage with its initial weights, and DeepSpeed around it. Collective over the world.

    Raises UserError where DeepSpeed is not installed.
    """
    partition = make_partition(config)
    topology = make_topology(config.layout, partition.roles)
    built = build_stage(config, partition, topology, config.training.recompute)
    pipeline_stage = PipelineStage(built.stage, partition, config, replace(built.context.text), topology)
    adamw = make_adamw(config, built.weights)
    deepspeed = initialise(pipeline_stage, adamw, config, topology)
    kind = PartitionedWeights if config.deepspeed.zero_stage == WEIGHTS_STAGE else ReplicatedWeights
    shards = kind(deepspeed.optimizer, pipeline_stage, topology.data_rank)
    return DeepSpeedEngine(
        config=config,
        partition=partition,
        topology=topology,
        context=built.context,
        stage=built.stage,
        pipeline_stage=pipeline_stage,
        deepspeed=deepspeed,
        shards=shards,
        optimizer=ZeroOptimizer(adamw, shards),
        learning_rate=LearningRate(config, adamw),
        weights=built.weights,
        clock=clock or SectionClock(),
    )
