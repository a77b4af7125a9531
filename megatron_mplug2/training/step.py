"""One step: from a rank's microbatches to updated weights and the figures of the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist

from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.models.microbatch import ContrastShare, ContrastSolver, Microbatch
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.objectives.counts import local_counts
from megatron_mplug2.objectives.key_queue import Keys
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.objectives.weighted import contrasts, of_task, weighted
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.parallel.device import device
from megatron_mplug2.training import contrast
from megatron_mplug2.training.guard import BadStep, Guard
from megatron_mplug2.training.interface import TrainingEngine
from megatron_mplug2.training.momentum_pass import momentum_keys
from megatron_mplug2.training.norms import gradient_norms, weight_norms

_OBJECTIVES = tuple(Objective)
_DIFFERENT, _TEMPERATURE = len(_OBJECTIVES), len(_OBJECTIVES) + 1
"""Places in `Told.values`, after the objectives'."""


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
    """Unweighted means over the global batch, of the task's objectives that have a weight."""
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


def train_step(
    engine: TrainingEngine, work: StepWork, guard: Guard, *, by_module: bool = False, meanwhile: Callable[[], None] = lambda: None
) -> StepResult:
    """Forward, backward, and the update if the guard has nothing against it. Collective over the world.

    `by_module` asks for the norms of gradients and weights by module, which costs a pass over both. `meanwhile`: work of the host alone,
    done when forward and backward are queued: on a GPU they then run, and the host would wait for them.
    """
    told = backward(engine, work)
    meanwhile()
    engine.clock.enter(Section.OPTIMIZER)
    gradients: dict[str, float] = {}
    judged: list[tuple[StepLosses, BadStep | None]] = []

    def accept(norm: float) -> bool:
        if by_module:
            gradients.update(gradient_norms(engine))
        values = told.read()  # here alone: after the update, the host would wait for that too
        bad = guard.judge(work.task, values.losses, norm, finite_here=engine.gradients_are_finite())
        judged.append((values, bad))
        return bad is None

    norm, rate = engine.update(work.step, accept)
    ((values, bad),) = judged
    if bad is None:
        enqueue(engine, told)
    norms = ModuleNorms(gradients=gradients, weights=weight_norms(engine)) if by_module else None
    return StepResult(values=values, grad_norm=norm, rate=rate, bad=bad, norms=norms)


def backward(engine: TrainingEngine, work: StepWork) -> "Told":
    """Leaves the step's gradients, summed over microbatches and data-parallel ranks, with the optimizer."""
    engine.stage.train()
    engine.zero_gradients()
    return _run_passes(engine, work, forward_only=False)


def enqueue(engine: TrainingEngine, told: "Told") -> None:
    """The momentum features of a step that was accepted into the queue, where this stage has it."""
    if told.keys is not None:
        assert engine.momentum is not None and engine.momentum.queue is not None
        engine.momentum.queue.enqueue(told.keys)


def validation_step(engine: TrainingEngine, work: StepWork) -> StepLosses:
    """The losses of a step without dropout, gradients and update. Collective over the world."""
    engine.stage.eval()
    return _run_passes(engine, work, forward_only=True).read()


def make_microbatches(engine: TrainingEngine, work: StepWork) -> list[Microbatch]:
    """The rank's microbatches with the step's true global counts, by an all-reduce over data-parallel ranks."""
    config, topology = engine.config, engine.topology
    divisors = _divisors(engine, work.batches)
    return [
        Microbatch(
            batch=batch,
            step=work.step,
            index=number * topology.data_size + topology.data_rank,
            objectives=config.objectives,
            divisors=divisors,
            sequence=engine.pipeline_stage.sequence,
            shape=batch_shape(config, work.task, samples=len(batch.sample_ids), frames=work.phase.frames, resolution=work.phase.resolution),
        )
        for number, batch in enumerate(work.batches)
    ]


def _run_passes(engine: TrainingEngine, work: StepWork, *, forward_only: bool) -> "Told":
    clock = engine.clock
    clock.enter(Section.MEETING)
    micros = make_microbatches(engine, work)
    if not contrasts(weighted(engine.config.objectives), work.task):
        clock.enter(Section.FORWARD_BACKWARD)
        engine.run_microbatches(micros, forward_only=forward_only)
        return _tell(engine, micros, None)
    clock.enter(Section.FEATURE_PASS)
    # A validation contrasts the global batch alone: a figure that no queue and no ramp moves.
    queued = engine.config.objectives.vlc.queued and not forward_only
    keys = momentum_keys(engine, micros) if queued else None
    solve = _solve(engine, work, keys)
    if engine.topology.pipeline_size == 1 and (queued or len(micros) == 1):
        for micro in micros:
            micro.solver = inline_solver(engine, solve, micro)
    else:
        for micro, share in zip(micros, _first_pass(engine, solve, micros), strict=True):
            micro.contrast = share
    clock.enter(Section.FORWARD_BACKWARD)
    engine.run_microbatches(micros, forward_only=forward_only)
    return _tell(engine, micros, keys)


def _solve(engine: TrainingEngine, work: StepWork, keys: Keys | None) -> contrast.Solve:
    """How the step's contrast is solved; with `keys`, against them and the queue."""
    if keys is None:
        return partial(contrast.solve, engine.config, engine.topology, work.step)
    assert engine.momentum is not None and engine.momentum.queue is not None
    return partial(contrast.solve_with_queue, engine.config, work.step, keys, engine.momentum.queue)


def inline_solver(engine: TrainingEngine, solve: contrast.Solve, micro: Microbatch) -> ContrastSolver:
    """For one stage, where a microbatch's own features are all that is missing in its only forward pass: no first pass is needed.

    That is so where it is the rank's only one, and against momentum features.
    """

    def solve_one(vision: torch.Tensor, text: torch.Tensor, log_temperature: torch.Tensor) -> ContrastShare:
        shares = solve([micro.pair], [micro.index], contrast.RankFeatures(vision[None], text[None], log_temperature))
        return contrast.share_negatives(shares, 1, micro.samples, 0, engine.topology)[0]

    return solve_one


def _first_pass(engine: TrainingEngine, solve: contrast.Solve, micros: Sequence[Microbatch]) -> list[ContrastShare]:
    """Against momentum features too: stages after the owner must know the hard negatives before the schedule begins."""
    owner, topology = engine.partition.roles.features, engine.topology
    shares = None
    if topology.pipeline_rank <= owner:
        features = engine.run_features([replace(micro, features_only=True) for micro in micros])
        if topology.pipeline_rank == owner:
            assert engine.log_temperature is not None
            vision, text = torch.stack(features).unbind(1)
            rank_features = contrast.RankFeatures(vision, text, engine.log_temperature.detach())
            shares = solve([micro.pair for micro in micros], [micro.index for micro in micros], rank_features)
    return contrast.share_negatives(shares, len(micros), micros[0].samples, owner, topology)


def _divisors(engine: TrainingEngine, batches: Sequence[Batch]) -> dict[Objective, torch.Tensor]:
    """Nobody waits for the counts: on a GPU the step's passes are queued while the update before them runs."""
    counts = torch.zeros(len(_OBJECTIVES), dtype=torch.float64, device=device())
    for batch in batches:
        for objective, count in local_counts(batch, engine.config.objectives).items():
            counts[_OBJECTIVES.index(objective)] += count
    dist.all_reduce(counts, group=engine.topology.data_group)
    return dict(zip(_OBJECTIVES, torch.where(counts > 0, counts, torch.inf).float().unbind(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a step's passes leave beside gradients, on the device. Who reads the figures waits for it, so the work on the host that needs
    none of them comes first."""

    values: torch.Tensor
    """Of every objective, microbatches whose two passes gave different features, and the temperature."""
    objectives: Sequence[Objective]
    """Those that count."""
    keys: Keys | None
    """Momentum features of the global batch, for the queue if the step is accepted; None without a queue on this stage."""

    def read(self) -> StepLosses:
        """RuntimeError, on every rank, where VLC's gradient was computed from other features than the backward pass has."""
        values = self.values.tolist()
        if values[_DIFFERENT]:
            raise RuntimeError("the two passes of VLC gave different features: something in the forward pass is not a pure function")
        return StepLosses(losses={one: values[_OBJECTIVES.index(one)] for one in self.objectives}, temperature=values[_TEMPERATURE])


def _tell(engine: TrainingEngine, micros: Sequence[Microbatch], keys: Keys | None) -> Told:
    """Each objective's value summed over microbatches and data-parallel ranks, from the stage that has it; and the temperature."""
    values = torch.zeros(_TEMPERATURE + 1, dtype=torch.float32, device=device())
    for micro in micros:
        for objective, value in micro.values.items():
            values[_OBJECTIVES.index(objective)] += value.float()
        if micro.features_differ is not None:
            values[_DIFFERENT] += micro.features_differ
    dist.all_reduce(values, group=engine.topology.data_group)
    if engine.log_temperature is not None:
        values[_TEMPERATURE] = engine.log_temperature.detach().exp()
    if engine.topology.pipeline_size > 1:
        dist.all_reduce(values, group=engine.topology.groups.pp)
    return Told(values=values, objectives=of_task(weighted(engine.config.objectives), micros[0].task), keys=keys)
