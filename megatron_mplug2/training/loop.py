"""Training, be it pretraining or finetuning: the loop over the planned steps, with validation, checkpoints and a clean stop."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch.distributed as dist

from megatron_mplug2.checkpoint.together import together
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.peers import Peers, Sharing
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.beats import forget_beats
from megatron_mplug2.observability.run_history import STOPPED
from megatron_mplug2.observability.sections import Section, SectionClock
from megatron_mplug2.observability.watchdog import Watchdog
from megatron_mplug2.parallel.determinism import be_deterministic
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.bad_steps import BadSteps
from megatron_mplug2.training.best import BestSoFar
from megatron_mplug2.training.engines import make_engine
from megatron_mplug2.training.feed import on_device
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.interface import TrainingEngine
from megatron_mplug2.training.interrupt import Interrupt
from megatron_mplug2.training.only_run import only_run
from megatron_mplug2.training.recorder import Recorder
from megatron_mplug2.training.step import StepWork, train_step
from megatron_mplug2.training.validation import validate

Measure = Callable[[TrainingEngine], Mapping[str, float]]
"""Figures of a validation beside the losses, by name; the same on all ranks, and the engine as it was."""

Prepare = Callable[[StepWork], StepWork]
"""A step's work before it is done; on every rank, and collective where the engine's weights must be gathered."""


def _as_read(engine: TrainingEngine) -> Prepare:
    return lambda work: work


def pretrain(
    config: RunConfig, measure: Measure = lambda engine: {}, preparing: Callable[[TrainingEngine], Prepare] = _as_read
) -> ExitCode:
    """Trains to the end of the schedule, or until a signal asks to stop; goes on from the run's newest good checkpoint. On every rank.
    A run that looks for its best checkpoint ends when its patience does. `preparing` is called once, when the engine has its weights.

    Returns STOPPED where a signal asked, after the checkpoint is written; else FINISHED.

    Raises UserError for data, a checkpoint or a layout that cannot be used, for a run folder that cannot be written or that another run is
    using, and for a bad step at which the run is to stop (`training.on_bad_step`). Ends the process with `ExitCode.HUNG`, and a line, where
    a rank is stuck (`training.hang_timeout_s`).
    """
    rank, world_size, clock = dist.get_rank(), dist.get_world_size(), SectionClock()
    if config.training.deterministic:
        be_deterministic()
    with Interrupt() as interrupt, only_run(config.run_dir):
        with together(f"write into {config.run_dir}"):
            if rank == 0:
                forget_beats(config.run_dir)
        with Watchdog(config.run_dir, rank, world_size, clock, config.training.hang_timeout_s) as watchdog:
            engine = make_engine(config, clock)
            begin = checkpoints.start(engine)
            first = begin.state.steps if begin.state else 0
            data = _data(engine, begin.state)
            with together(f"write into {config.run_dir}"):
                recorder = Recorder(config, engine.topology, engine.partition.starts, clock, first, begin.health)
            watchdog.tell(recorder.ended)
            with recorder:
                for line in begin.said:
                    recorder.note(line)
                if begin.state:
                    recorder.note(f"going on from the checkpoint after step {first} of {config.steps}")
                with checkpoints.Saver(engine, recorder.note) as saver:
                    end = _Training(engine, data, recorder, interrupt, saver, begin.health, measure, preparing(engine)).run(first)
    return end


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What a rank reads, with whom, and where bad samples are written down."""

    loader: Loader
    peers: Peers | None
    ledger: Ledger | None


def _data(engine: TrainingEngine, state: DataState | None) -> _Data:
    topology = engine.topology
    peers = _peers(topology)
    ledger = Ledger(engine.config.run_dir) if topology.rank == 0 else None
    loader = Loader(
        engine.config,
        Split.TRAIN,
        data_rank=topology.data_rank,
        data_size=topology.data_size,
        needs_media=engine.needs_media,
        start_step=state.steps if state else 0,
        state=state,
        peers=peers,
        ledger=ledger,
    )
    return _Data(loader=loader, peers=peers, ledger=ledger)


def _peers(topology: Topology) -> Peers | None:
    if topology.world_size == 1:
        return None
    by_host = topology.tensor_host_group
    sharing = Sharing(host_group=by_host, device_group=topology.tensor_group) if by_host is not None else None
    return Peers(topology.host_group, sharing)


class _Training:
    """The steps of one start of a run."""

    def __init__(
        self,
        engine: TrainingEngine,
        data: _Data,
        recorder: Recorder,
        interrupt: Interrupt,
        saver: checkpoints.Saver,
        health: HealthState,
        measure: Measure,
        prepare: Prepare,
    ) -> None:
        self._prepare = prepare
        self._engine, self._data, self._recorder, self._saver = engine, data, recorder, saver
        self._feed = on_device(data.loader)
        downstream = engine.config.downstream
        self._best, self._measure = BestSoFar(downstream.best if downstream else None, health.best), measure
        self._guard = Guard(engine.config, health.recent, interrupt.asked)
        self._bad_steps = BadSteps(engine.config, health, saver, recorder.note)

    def run(self, first: int) -> ExitCode:
        """From step `first` on."""
        with closing(self._feed):
            return self._run(first)

    def _run(self, first: int) -> ExitCode:
        clock, last = self._engine.clock, self._engine.config.steps - 1
        if self._best.given_up:
            self._recorder.note(f"the run is finished: the best validation was after step {self._best.step}")
            return ExitCode.FINISHED
        clock.enter(Section.DATA_WAIT, first)
        for planned, batches in self._feed:
            self._recorder.batch_arrived()
            rolled_back = self._step(planned, batches)
            stopping = self._guard.stopping
            better = self._validate(planned.step, stopping)
            if stopping or rolled_back or better or self._ends_or_saves_at(planned.step):
                self._save(planned.step)
            if self._best.given_up:
                self._recorder.note(f"finished after step {planned.step + 1}: the best validation was after step {self._best.step}")
                break
            if stopping and planned.step != last:
                with clock.within(Section.CHECKPOINT):
                    self._saver.finish()
                self._recorder.stopping(STOPPED)
                return ExitCode.STOPPED
            clock.enter(Section.DATA_WAIT, planned.step + 1)
        with clock.within(Section.CHECKPOINT):
            self._saver.finish()
        return ExitCode.FINISHED

    def _ends_or_saves_at(self, step: int) -> bool:
        config = self._engine.config
        return self._best.given_up or step == config.steps - 1 or (step + 1) % config.training.checkpoint_every == 0

    def _step(self, planned: PlannedStep, batches: list[Batch]) -> bool:
        """Returns whether the run was rolled back."""
        work = StepWork(step=planned.step, task=planned.task, phase=planned.phase, batches=batches)
        work = self._prepare(work)
        result = train_step(self._engine, work, self._guard, by_module=self._recorder.logs(planned.step), meanwhile=self._fetch_next)
        self._engine.clock.enter(Section.LOGGING)
        self._recorder.step(work, result, substituted=self._data.loader.substituted_after(planned.step))
        self._saver.step_done()
        if result.bad is None:
            self._bad_steps.good()
            return False
        with self._engine.clock.within(Section.CHECKPOINT):
            back = self._bad_steps.bad(work, result.bad)
        if back is not None:
            self._recorder.rolled_back(back)
        return back is not None

    def _fetch_next(self) -> None:
        with self._engine.clock.within(Section.DATA_WAIT):
            self._feed.fetch_next()

    def _validate(self, step: int, stopping: bool) -> bool:
        """Returns whether the weights are the best so far."""
        training, last = self._engine.config.training, self._engine.config.steps - 1
        if training.validate_every and not stopping and ((step + 1) % training.validate_every == 0 or step == last):
            with self._engine.clock.within(Section.VALIDATION), self._engine.evaluated():
                figures = {**validate(self._engine, self._data.peers, self._data.ledger), **self._measure(self._engine)}
            self._recorder.validation(step, figures)
            return self._best.judge(step + 1, figures)
        return False

    def _save(self, step: int) -> None:
        health = HealthState(
            recent=self._guard.recent,
            bad_in_a_row=self._bad_steps.in_a_row,
            left_out=self._bad_steps.left_out,
            productive_s=self._recorder.productive_s,
            best=self._best.best,
        )
        with self._engine.clock.within(Section.CHECKPOINT):
            self._saver.save(self._data.loader.state_after(step), health)
        self._recorder.saved(health)
