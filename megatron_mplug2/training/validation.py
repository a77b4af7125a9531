"""Validation during training: the losses of held-out batches, and retrieval where the model is on one stage."""

from collections import defaultdict

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import moved
from megatron_mplug2.data.evaluation_batches import validation_steps
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.mixture import StepPlan
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.validation import validation_retrieval
from megatron_mplug2.objectives.weighted import contrasts, weighted
from megatron_mplug2.parallel.device import device
from megatron_mplug2.training.interface import TrainingEngine
from megatron_mplug2.training.step import StepWork, validation_step


def validate(engine: TrainingEngine, peers: Peers | None, ledger: Ledger | None) -> dict[str, float]:
    """Named figures, e.g. `video_text/loss/vlc`; means over the batches. Collective over the world; leaves the run as it was, but for
    bad samples in the ledger."""
    config, topology = engine.config, engine.topology
    values: dict[str, float] = {}
    for task in _tasks(config):
        sums: dict[str, float] = defaultdict(float)
        steps = validation_steps(
            config,
            task,
            config.training.validation_batches,
            data_rank=topology.data_rank,
            data_size=topology.data_size,
            needs_media=engine.needs_media,
            peers=peers,
            ledger=ledger,
        )
        for planned, batches in steps:
            work = StepWork(step=planned.step, task=task, phase=planned.phase, batches=[moved(batch, device()) for batch in batches])
            for objective, loss in validation_step(engine, work).losses.items():
                sums[f"{task}/loss/{objective}"] += loss
        values |= {name: total / config.training.validation_batches for name, total in sums.items()}
        if contrasts(weighted(config.objectives), task) and topology.pipeline_size == 1:
            samples = config.training.validation_batches * config.training.global_batch
            found = validation_retrieval(Inference(engine.stage, engine.context), config, task, samples)
            values |= {f"{task}/retrieval/{name}": value for name, value in found.items()}
    return values


def _tasks(config: RunConfig) -> tuple[Task, ...]:
    return StepPlan(config.schedule, seed=config.training.seed, global_batch=config.training.global_batch).tasks
