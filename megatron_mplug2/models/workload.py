"""What a run's steps ask of each unit of the chain: the kinds of steps with their shares, and the passes that each makes."""

from collections import defaultdict

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Unit, grown_before
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.mplug2 import CONTRAST, run_chain
from megatron_mplug2.models.shapes import BatchShape, batch_shape
from megatron_mplug2.models.stage_cuts import Pass
from megatron_mplug2.objectives.weighted import contrasts, weighted


def step_shares(config: RunConfig) -> dict[BatchShape, float]:
    """The microbatches' shapes over the whole schedule, each with its share of the steps; by task, then size."""
    shares: dict[BatchShape, float] = defaultdict(float)
    for phase in config.schedule:
        together = sum(phase.share(task) for task in Task)
        for task in Task:
            shape = batch_shape(config, task, samples=config.training.microbatch, frames=phase.frames, resolution=phase.resolution)
            shares[shape] += phase.steps * phase.share(task) / together / config.steps
    order = list(Task)
    kinds = sorted((shape for shape, share in shares.items() if share), key=lambda kind: (order.index(kind.task), kind.visual_length))
    return {kind: shares[kind] for kind in kinds}


def recomputed(config: RunConfig, unit: Unit) -> bool:
    """Whether a unit's activations are made a second time for its backward, if it has one."""
    return unit.block in config.training.recompute


def backward_parts(config: RunConfig, task: Task) -> dict[str, int]:
    """By unit's name, how many forward passes its backward costs: one for the gradient of what came in, where a trained weight has gone
    into that, and one for those of its weights, where one is trained."""
    units, frozen = run_chain(config), config.training.frozen
    return {
        unit.name: bool(grown.intersection(unit.flow(task).reads)) + bool(unit.modules(task).difference(frozen))
        for unit, grown in zip(units, grown_before(units, task, frozen), strict=False)  # it goes on to after the last
    }


def training_pass(config: RunConfig, shape: BatchShape) -> tuple[float, ...]:
    """Operations of each unit for one microbatch, forward and backward, recomputed activations counted."""
    backward = backward_parts(config, shape.task)

    def passes_of(unit: Unit) -> int:
        parts = backward[unit.name]
        return 1 + parts + (parts > 0 and recomputed(config, unit))

    return tuple(unit_flops(unit, shape, config) * passes_of(unit) for unit in run_chain(config))


def feature_pass(config: RunConfig, shape: BatchShape) -> tuple[float, ...]:
    """Operations of each unit for one microbatch, forward up to the contrastive head."""
    units = run_chain(config)
    owner = next(index for index, unit in enumerate(units) if unit.name == CONTRAST)
    return tuple(unit_flops(unit, shape, config) if index <= owner else 0 for index, unit in enumerate(units))


def feature_passes(config: RunConfig, task: Task) -> int:
    """Passes without gradients before the training pass: VLC's first one, and that of momentum encoders (`training.step`)."""
    if not contrasts(weighted(config.objectives), task):
        return 0
    queued = config.objectives.vlc.queued
    inline = config.layout.pipeline == 1 and (queued or config.microbatches == 1)
    return queued + (not inline)


def passes(config: RunConfig) -> tuple[Pass, ...]:
    """All that the run's steps send through the pipeline."""
    found = []
    for shape, share in step_shares(config).items():
        found.append(Pass(share, training_pass(config, shape)))
        if count := feature_passes(config, shape.task):
            found.append(Pass(share * count, feature_pass(config, shape)))
    return tuple(found)
