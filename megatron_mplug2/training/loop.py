"""Pretraining: the loop over the planned steps, with validation, checkpoints and a clean stop."""

import math
from itertools import chain

import torch.distributed as dist

from megatron_mplug2.checkpoint.together import together
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import moved
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState
from megatron_mplug2.data.substitution import Substitutions, settled
from megatron_mplug2.errors import UserError
from megatron_mplug2.parallel.device import device
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.interrupt import Interrupt
from megatron_mplug2.training.only_run import only_run
from megatron_mplug2.training.recorder import Recorder
from megatron_mplug2.training.step import StepResult, StepWork, train_step
from megatron_mplug2.training.validation import validate


def pretrain(config: RunConfig) -> None:
    """Trains to the end of the schedule, or until a signal asks to stop; goes on from the run's newest good checkpoint. On every rank.

    Raises UserError for data, a checkpoint or a layout that cannot be used, for a run folder that cannot be written or that another run is
    using, and for a loss that is no number any more.
    """
    with Interrupt() as interrupt, only_run(config.run_dir):
        engine = make_engine(config)
        begin = checkpoints.start(engine)
        state = begin.state
        loader = _loader(engine, state)
        with together(f"write into {config.run_dir}"):
            recorder = Recorder(config, engine.topology, state.steps if state else 0)
        with recorder:
            for line in begin.said:
                recorder.note(line)
            if state:
                recorder.note(f"going on from the checkpoint after step {state.steps} of {config.steps}")
            with checkpoints.Saver(engine, recorder.note) as saver:
                _train(engine, loader, recorder, interrupt, saver)


def _loader(engine: Engine, state: DataState | None) -> Loader:
    config, topology = engine.config, engine.topology
    return Loader(
        config,
        Split.TRAIN,
        data_rank=topology.data_rank,
        data_size=topology.data_size,
        needs_media=engine.needs_media,
        start_step=state.steps if state else 0,
        state=state,
        agree=_agree if topology.world_size > 1 else None,
        ledger=Ledger(config.run_dir) if topology.rank == 0 else None,
    )


def _agree(found: Substitutions) -> Substitutions:
    """All ranks' substitutions, the same on each."""
    everyone: list[Substitutions] = [()] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    return settled(tuple(chain.from_iterable(everyone)))


def _train(engine: Engine, loader: Loader, recorder: Recorder, interrupt: Interrupt, saver: checkpoints.Saver) -> None:
    training, last = engine.config.training, engine.config.steps - 1
    for planned, batches in loader:
        recorder.batch_arrived()
        work = StepWork(step=planned.step, task=planned.task, phase=planned.phase, batches=[moved(batch, device()) for batch in batches])
        result = train_step(engine, work)
        _check_finite(engine, work, result)
        recorder.step(work, result)
        saver.step_done()
        done, stopping = planned.step + 1, interrupt.asked_anywhere()
        if training.validate_every and not stopping and (done % training.validate_every == 0 or planned.step == last):
            recorder.validation(planned.step, validate(engine, _agree if engine.topology.world_size > 1 else None))
        if stopping or done % training.checkpoint_every == 0 or planned.step == last:
            saver.save(loader.state_after(planned.step))
        if stopping and planned.step != last:
            saver.finish()
            recorder.note(f"stopped after step {done} of {engine.config.steps}; the same command goes on from there")
            return


def _check_finite(engine: Engine, work: StepWork, result: StepResult) -> None:
    if not math.isfinite(result.grad_norm):
        raise UserError(
            f"step {work.step} ({work.task}): the gradient norm is {result.grad_norm} with losses "
            f"{', '.join(f'{name} {loss:.4g}' for name, loss in result.values.losses.items())}; this step was not saved: "
            f"lower optimizer.lr={engine.config.optimizer.lr} or look at the data of this step"
        )
