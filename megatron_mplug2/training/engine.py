"""Everything that one rank trains with, made from a config: its stage, Megatron-Core's data parallelism and optimizer around it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from torch import nn

from megatron_mplug2.checkpoint.contents import AVERAGE
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.build import LOG_TEMPERATURE, build_stage
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.partition import Partition, make_partition
from megatron_mplug2.models.units import VisionEmbeddingUnit
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.objectives.contrastive import clamp_log_temperature_
from megatron_mplug2.objectives.key_queue import KeyQueue
from megatron_mplug2.observability.sections import Section, SectionClock
from megatron_mplug2.parallel.device import device, megatron_runtime
from megatron_mplug2.parallel.topology import Topology, make_topology
from megatron_mplug2.training.averages import Averages, Mains
from megatron_mplug2.training.momentum import Momentum, feature_weights
from megatron_mplug2.training.optimizer import LearningRate, clip, gradient_norm, make_optimizer, update_weights
from megatron_mplug2.training.passes import run_features, run_microbatches
from megatron_mplug2.training.pipeline_stage import PipelineStage
from megatron_mplug2.training.ties import TiedCopy, reduce_ties, tied_copies


@dataclass(frozen=True, kw_only=True)
class Engine:
    config: RunConfig
    partition: Partition
    topology: Topology
    context: ModelContext
    stage: Stage
    pipeline_stage: PipelineStage
    ddp: DistributedDataParallel
    """`pipeline_stage` in Megatron-Core's data parallelism."""
    optimizer: MegatronOptimizer
    learning_rate: LearningRate
    weights: list[Weight]
    clock: SectionClock
    """Told where in a step the rank is."""
    momentum: Momentum | None
    """With `objectives.vlc.negatives: queue`, on the stages up to the one that owns the contrastive features."""
    ema: Averages | None
    """With `training.ema`, of all trained weights, for evaluation."""

    @property
    def averages(self) -> tuple[Averages, ...]:
        """All that is averaged over steps."""
        return tuple(kept for kept in (self.momentum, self.ema) if kept is not None)

    @property
    def log_temperature(self) -> nn.Parameter | None:
        """The contrastive head's, on the stage that has it."""
        return _log_temperature(self.weights)

    @property
    def needs_media(self) -> bool:
        """Whether this stage has the vision encoder's embedding."""
        return any(isinstance(unit, VisionEmbeddingUnit) for unit in self.stage.units)

    def zero_gradients(self) -> None:
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()

    def run_features(self, micros: Sequence[Microbatch]) -> list[torch.Tensor]:
        return run_features(self, micros)

    def run_microbatches(self, micros: Sequence[Microbatch], *, forward_only: bool) -> None:
        """Leaves the reduced gradients in the parameters' `main_grad`."""
        run_microbatches(self, micros, forward_only=forward_only)

    def finish_gathering(self) -> None:
        """Makes all weights current where their gathering overlaps the next forward pass (ZeRO-1), for a look at them before it."""
        if self.config.layout.overlaps_gathering:
            self.ddp.start_param_sync(force_sync=True)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Around a look at the model as it is evaluated: with the averages of its weights, if it keeps them (`training.ema`)."""
        self.finish_gathering()
        with self.ema.in_place_of_weights() if self.ema is not None else nullcontext():
            yield

    def weights_loaded(self) -> None:
        """They were written where they are used, and where the optimizer has copies there too."""

    def gradients_are_finite(self) -> bool:
        """All of this rank's own, replicas too. By their sum, the quickest to compute: only sums over 3e38 would be taken for infinite."""
        sums = [buffer.grad_data.sum() for buffer in self.ddp.buffers]
        return bool(torch.stack(sums).isfinite().all()) if sums else True

    def update(self, step: int, accept: Callable[[float], bool] = lambda norm: True) -> tuple[float, float]:
        """One optimizer step from the gradients that the schedule has left. Returns the gradient norm before clipping and the rate.

        `accept` is asked with the norm, before the gradients are clipped. Where it refuses, the same on all ranks, weights, moments,
        Adam's count and averages stay as if the step had not been.

        Averages follow here, after every step, whatever its task. They need all weights: with them, no gathering overlaps.
        """
        rate = self.learning_rate.set(step)
        with megatron_runtime():
            self.optimizer.prepare_grads()
        norm = gradient_norm(self.optimizer)
        if not accept(norm):
            return norm, rate
        for kept in self.averages:
            kept.begin()
        clip(self.optimizer, self.config.optimizer.clip_norm, norm)
        with megatron_runtime():
            update_weights(self.optimizer)
        if self.log_temperature is not None and self.log_temperature.requires_grad:
            clamp_log_temperature_(self.log_temperature, self.config.objectives.vlc)
        if self.averages:
            self.finish_gathering()
        for kept in self.averages:
            kept.follow()
        return norm, rate


def make_engine(config: RunConfig, clock: SectionClock | None = None) -> Engine:
    """Makes every group, this rank's stage with its initial weights, and its optimizer. Collective over the world."""
    clock = clock or SectionClock()
    partition = make_partition(config)
    topology = make_topology(config.layout, partition.roles)
    built = build_stage(config, partition, topology, config.training.recompute)
    context, stage, weights = built.context, built.stage, built.weights
    copies = tied_copies(stage, topology)
    core = replace(context.text)
    pipeline_stage = PipelineStage(stage, partition, config, core, topology)
    with megatron_runtime():
        ddp = DistributedDataParallel(core, _ddp_config(config.layout), pipeline_stage, pg_collection=topology.groups)
    core.no_sync_func = ddp.no_sync
    core.finalize_model_grads_func = _Finalize(topology, copies, _log_temperature(weights), clock)
    optimizer = make_optimizer(config, ddp, weights, topology)
    return Engine(
        config=config,
        partition=partition,
        topology=topology,
        context=context,
        stage=stage,
        pipeline_stage=pipeline_stage,
        ddp=ddp,
        optimizer=optimizer,
        learning_rate=LearningRate(config, optimizer),
        weights=weights,
        clock=clock,
        momentum=_momentum(config, partition, topology, weights, optimizer),
        ema=_ema(config, topology, weights, optimizer),
    )


def _log_temperature(weights: Sequence[Weight]) -> nn.Parameter | None:
    return next((weight.param for weight in weights if weight.name == LOG_TEMPERATURE), None)


def _momentum(
    config: RunConfig, partition: Partition, topology: Topology, weights: Sequence[Weight], optimizer: MegatronOptimizer
) -> Momentum | None:
    vlc, owner = config.objectives.vlc, partition.roles.features
    if not vlc.queued or topology.pipeline_rank > owner:
        return None
    owns = topology.pipeline_rank == owner
    queue = KeyQueue(vlc.queue.size, config.model.contrastive_width, device()) if owns else None
    return Momentum(feature_weights(weights, partition), vlc.queue.momentum, queue, Mains(optimizer, topology))


def _ema(config: RunConfig, topology: Topology, weights: Sequence[Weight], optimizer: MegatronOptimizer) -> Averages | None:
    """Of tied copies too: each stage runs with its own."""
    if not config.training.ema:
        return None
    trained = [weight for weight in weights if weight.param.requires_grad]
    return Averages(AVERAGE, trained, config.training.ema, Mains(optimizer, topology))


def _ddp_config(layout: LayoutConfig) -> DistributedDataParallelConfig:
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=layout.overlaps_reduction,
        overlap_param_gather=layout.overlaps_gathering,
        use_distributed_optimizer=layout.shards_optimizer,
    )


class _Finalize:
    """What the schedule calls after the last backward: the reductions of gradients over data-parallel, tensor-parallel and tied ranks."""

    def __init__(self, topology: Topology, copies: Sequence[TiedCopy], log_temperature: nn.Parameter | None, clock: SectionClock) -> None:
        self._groups, self._copies, self._log_temperature, self._clock = topology.groups, copies, log_temperature, clock

    def __call__(self, model: list[DistributedDataParallel], *_: object, **__: object) -> None:
        """The schedule's token count is left out: every loss was divided by its own global count already."""
        self._clock.enter(Section.GRADIENT_REDUCTION)
        _finish_unused_gathering(model[0])
        _gather_told(model[0], self._log_temperature)
        _report_unused(model[0])
        finalize_model_grads(model, None, self._groups)
        reduce_ties(self._copies)


def _finish_unused_gathering(ddp: DistributedDataParallel) -> None:
    """Waits for weights that are under way and that no module of this step's task has asked for.

    Megatron-Core begins to gather a bucket when a module asks for the one before it, and waits when a module asks for the bucket itself.
    Left under way, it would read what the optimizer writes next, and no later step could gather that bucket again.
    """
    for group in ddp.bucket_groups:
        if group.param_gather_handle is not None:
            group.finish_param_sync(skip_next_bucket_dispatch=True)


def _gather_told(ddp: DistributedDataParallel, log_temperature: nn.Parameter | None) -> None:
    """Gathers the temperature, which a step's figures tell, where no module of the step's task has asked for it.

    Only the data-parallel rank that updates it would have the present one. On a GPU its stream waits, not the host.
    """
    if ddp.ddp_config.overlap_param_gather and log_temperature in ddp.param_to_bucket_group:
        ddp.param_to_bucket_group[log_temperature].finish_param_sync(skip_next_bucket_dispatch=True)


def _report_unused(ddp: DistributedDataParallel) -> None:
    """Tells overlapped reductions of parameters that this step's task doesn't use: their gradient is zero, and ready.

    Megatron-Core starts a bucket's reduction when all of its gradients are there, and would wait for these for ever.
    """
    if not ddp.ddp_config.overlap_grad_reduce:
        return
    for group in ddp.bucket_groups:
        for param in (param for bucket in group.buckets for param in bucket.params_list):
            if param not in group.per_param_grad_ready_counts:
                group.register_grad_ready(param)
