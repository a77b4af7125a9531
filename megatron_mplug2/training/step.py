"""One step: from a rank's microbatches to updated weights and the figures of the step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from megatron_mplug2.config.schema import PhaseConfig, Task
from megatron_mplug2.data.batch import Batch, PairBatch
from megatron_mplug2.models.microbatch import ContrastShare, ContrastSolver, Microbatch
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.objectives.counts import local_counts
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.parallel.device import device
from megatron_mplug2.training import contrast
from megatron_mplug2.training.engine import Engine
from megatron_mplug2.training.guard import BadStep, Guard
from megatron_mplug2.training.norms import gradient_norms, weight_norms
from megatron_mplug2.training.passes import run_features, run_microbatches

_OBJECTIVES = tuple(Objective)


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What a step is about, on this rank."""

    step: int
    task: Task
    phase: PhaseConfig
    batches: Sequence[Batch]
    """This rank's microbatches in order; microbatch m is number m * data-parallel size + data-parallel rank of the global batch."""


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    losses: dict[Objective, float]
    """Unweighted means over the global batch."""
    temperature: float


@dataclass(frozen=True, kw_only=True)
class ModuleNorms:
    gradients: dict[str, float]
    """Before clipping."""
    weights: dict[str, float]
    """After the update."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    values: StepLosses
    grad_norm: float
    """Before clipping."""
    rate: float
    """Learning rate of the groups without a scale."""
    bad: BadStep | None
    """Why the step made no update; None where it did."""
    norms: ModuleNorms | None
    """Where they were asked for."""


def train_step(engine: Engine, work: StepWork, guard: Guard, *, by_module: bool = False) -> StepResult:
    """Forward, backward, and the update if the guard has nothing against it. Collective over the world.

    `by_module` asks for the norms of gradients and weights by module, which costs a pass over both.
    """
    values = backward(engine, work)
    engine.clock.enter(Section.OPTIMIZER)
    gradients: dict[str, float] = {}
    found: list[BadStep] = []

    def accept(norm: float) -> bool:
        if by_module:
            gradients.update(gradient_norms(engine))
        bad = guard.judge(work.task, values.losses, norm, finite_here=engine.gradients_are_finite())
        found.extend([bad] if bad else [])
        return bad is None

    norm, rate = engine.update(work.step, accept)
    norms = ModuleNorms(gradients=gradients, weights=weight_norms(engine)) if by_module else None
    return StepResult(values=values, grad_norm=norm, rate=rate, bad=found[0] if found else None, norms=norms)


def backward(engine: Engine, work: StepWork) -> StepLosses:
    """Leaves the step's gradients, summed over microbatches and data-parallel ranks, in the parameters' `main_grad`."""
    engine.stage.train()
    engine.ddp.zero_grad_buffer()
    engine.optimizer.zero_grad()
    return _reduced_values(engine, _run_passes(engine, work, forward_only=False))


def validation_step(engine: Engine, work: StepWork) -> StepLosses:
    """The losses of a step without dropout, gradients and update. Collective over the world."""
    engine.stage.eval()
    return _reduced_values(engine, _run_passes(engine, work, forward_only=True))


def make_microbatches(engine: Engine, work: StepWork) -> list[Microbatch]:
    """The rank's microbatches with the step's true global counts, by an all-reduce over data-parallel ranks."""
    config, topology = engine.config, engine.topology
    counts = _global_counts(engine, work.batches)
    return [
        Microbatch(
            batch=batch,
            step=work.step,
            index=number * topology.data_size + topology.data_rank,
            objectives=config.objectives,
            counts=counts,
            sequence=engine.pipeline_stage.sequence,
            shape=batch_shape(config, work.task, samples=len(batch.sample_ids), frames=work.phase.frames, resolution=work.phase.resolution),
        )
        for number, batch in enumerate(work.batches)
    ]


def _run_passes(engine: Engine, work: StepWork, *, forward_only: bool) -> list[Microbatch]:
    clock = engine.clock
    clock.enter(Section.MEETING)
    micros = make_microbatches(engine, work)
    if work.task is not Task.TEXT:
        if len(micros) == 1 and engine.topology.pipeline_size == 1:
            micros[0].solver = inline_solver(engine, work, micros[0])
        else:
            clock.enter(Section.FEATURE_PASS)
            for micro, share in zip(micros, _first_pass(engine, work, micros), strict=True):
                micro.contrast = share
    clock.enter(Section.FORWARD_BACKWARD)
    run_microbatches(engine, micros, forward_only=forward_only)
    return micros


def inline_solver(engine: Engine, work: StepWork, micro: Microbatch) -> ContrastSolver:
    """One microbatch on one stage has all of the rank's features in its only forward pass: no first pass is needed."""

    def solve(vision: torch.Tensor, text: torch.Tensor, log_temperature: torch.Tensor) -> ContrastShare:
        features = contrast.RankFeatures(vision[None], text[None], log_temperature)
        shares = contrast.solve(engine.config, engine.topology, work.step, [micro.pair], [micro.index], features)
        return contrast.share_negatives(shares, 1, micro.samples, 0, engine.topology)[0]

    return solve


def _first_pass(engine: Engine, work: StepWork, micros: Sequence[Microbatch]) -> list[ContrastShare]:
    owner, topology = engine.partition.roles.features, engine.topology
    shares = None
    if topology.pipeline_rank <= owner:
        features = run_features(engine, [replace(micro, features_only=True) for micro in micros])
        if topology.pipeline_rank == owner:
            assert engine.log_temperature is not None
            vision, text = torch.stack(features).unbind(1)
            rank_features = contrast.RankFeatures(vision, text, engine.log_temperature.detach())
            pairs = [batch for batch in work.batches if isinstance(batch, PairBatch)]
            shares = contrast.solve(engine.config, topology, work.step, pairs, [micro.index for micro in micros], rank_features)
    return contrast.share_negatives(shares, len(micros), micros[0].samples, owner, topology)


def _global_counts(engine: Engine, batches: Sequence[Batch]) -> dict[Objective, float]:
    counts = torch.zeros(len(_OBJECTIVES), dtype=torch.float64, device=device())
    for batch in batches:
        for objective, count in local_counts(batch, engine.config.objectives).items():
            counts[_OBJECTIVES.index(objective)] += count
    dist.all_reduce(counts, group=engine.topology.data_group)
    return dict(zip(_OBJECTIVES, counts.tolist(), strict=True))


def _reduced_values(engine: Engine, micros: Sequence[Microbatch]) -> StepLosses:
    """Each objective's value summed over microbatches and data-parallel ranks, from the stage that has it; and the temperature."""
    values = torch.zeros(len(_OBJECTIVES) + 1, dtype=torch.float32, device=device())
    for micro in micros:
        for objective, value in micro.values.items():
            values[_OBJECTIVES.index(objective)] += value.float()
    dist.all_reduce(values, group=engine.topology.data_group)
    if engine.log_temperature is not None:
        values[-1] = engine.log_temperature.detach().exp()
    if engine.topology.pipeline_size > 1:
        dist.all_reduce(values, group=engine.topology.groups.pp)
    *losses, temperature = values.tolist()
    task = micros[0].task
    objectives = (Objective.MLM, Objective.LM) if task is Task.TEXT else (Objective.VLC, Objective.VLM, Objective.LM)
    means = {objective: losses[_OBJECTIVES.index(objective)] for objective in objectives}
    return StepLosses(losses=means, temperature=temperature)
