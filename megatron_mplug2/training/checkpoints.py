"""The run's checkpoints: going on from the newest good one, and saving the next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from megatron_mplug2.checkpoint import commit, store
from megatron_mplug2.checkpoint.background import BackgroundSaver
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.load import parse_resolved, resolved_yaml
from megatron_mplug2.config.resume import check_resume
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.state import DataState
from megatron_mplug2.errors import UserError
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.interface import TrainingEngine

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins or goes on."""

    state: DataState | None = None
    """None at the very beginning."""
    health: HealthState = field(default_factory=HealthState)
    said: tuple[str, ...] = ()
    """Lines about checkpoints that were skipped."""


def start(engine: TrainingEngine) -> Start:
    """Restores the newest good checkpoint, where there is one; else begins, with weights of `initialise_from`. Collective over the world.

    Raises UserError where the config differs from the checkpoint's in a key that may not change, where it is of another model or of a
    newer version, and where there are checkpoints but none is good.
    """
    folder = store.checkpoint_folder(engine.config.run_dir)
    store.recover(folder)
    found = store.find(folder)
    if not isinstance(found, store.Found):
        return Start(said=(*found, *_initialise(engine)))
    check_resume(_config_of(found), engine.config)
    state = _data_state(found)
    _load(found, engine)
    return Start(state=state, health=health_of(found), said=found.said)


class Saver:
    """Writes the run's checkpoints, in the step or beside it. A context: its end waits for what is still being written."""

    def __init__(self, engine: TrainingEngine, note: Callable[[str], None]) -> None:
        """`note` is told of each complete checkpoint."""
        training = engine.config.training
        self._engine, self._note = engine, note
        self._folder = store.checkpoint_folder(engine.config.run_dir)
        self._retention = Retention(last=training.keep_checkpoints, every=training.keep_every)
        self._background = BackgroundSaver() if training.async_save else None

    def save(self, data: DataState, health: HealthState) -> None:
        """After `data.steps` steps. Collective over the world. Raises UserError where this save or the one before could not be written."""
        engine = self._engine
        best = health.best.step if health.best else None
        state = RunState(
            step=data.steps,
            config=resolved_yaml(engine.config),
            data=data.model_dump(mode="json"),
            health=health.model_dump(mode="json"),
            best_step=best,
        )
        beside = [piece for kept in engine.averages for piece in kept.pieces_to_save(engine.topology)]
        retention = replace(self._retention, best=best)
        job = self._folder, state, engine.weights, engine.optimizer, engine.topology, retention, beside
        if self._background is None:
            self._tell(store.save(*job))
        else:
            self.finish()
            self._background.save(*job)

    def roll_back(self) -> store.Found:
        """Restores weights, optimizer and momentum encoders from the newest good checkpoint. Collective over the world.

        Raises UserError where there is none.
        """
        self.finish()
        engine = self._engine
        found = store.find(self._folder)
        if not isinstance(found, store.Found):
            raise UserError(f"no checkpoint in {self._folder} to roll back to: lower training.checkpoint_every or optimizer.lr")
        engine.finish_gathering()  # what is still under way would overwrite what is loaded
        _load(found, engine)
        return found

    def step_done(self) -> None:
        """Tells of a checkpoint that was completed beside the last steps."""
        if self._background is not None:
            self._tell(self._background.finished())

    def finish(self) -> None:
        """Waits for what is being written, and says so. Raises UserError where it could not be."""
        if self._background is not None:
            if (step := self._background.writing) is not None:
                self._note(f"waiting until the checkpoint after step {step} is written")
            self._tell(self._background.wait())

    def _tell(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            self._note(f"checkpoint after step {commit.step_of(checkpoint.name)} in {checkpoint}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """A failure of the run goes first; the steps before it are saved all the same."""
        try:
            self.finish()
        except Exception as failure:
            if error is None:
                raise
            self._note(f"and the last checkpoint was not written: {failure}")


def _load(found: store.Found, engine: TrainingEngine) -> None:
    """Weights, optimizer state, and what the run keeps beside them."""
    beside = [piece for kept in engine.averages for piece in kept.pieces_to_load(engine.topology)]
    store.load(found, engine.weights, engine.optimizer, engine.topology, beside)
    engine.weights_loaded()


def _initialise(engine: TrainingEngine) -> tuple[str, ...]:
    """Takes what `initialise_from` names from another run's checkpoint; says so."""
    settings = engine.config.initialise_from
    if settings is None:
        return ()
    found = store.find_in(settings.checkpoint)
    store.load_modules(found, settings.modules, engine.weights, engine.optimizer, engine.topology)
    engine.weights_loaded()
    return (*found.said, f"beginning with {', '.join(settings.modules)} of {found.checkpoint}")


def _config_of(found: store.Found) -> RunConfig:
    """In one line what this version cannot read, which is then another's."""
    source = f"the config in {found.checkpoint}"
    try:
        return parse_resolved(found.state.config, source)
    except UserError as error:
        first, *others = (line.strip() for line in str(error).splitlines())
        raise UserError(f"{': '.join([first, *others[:1]])}; it is another version's") from None


def _data_state(found: store.Found) -> DataState:
    return _validated(DataState, found.state.data, f"{found.checkpoint / store.RUN}: data")


def health_of(found: store.Found) -> HealthState:
    """Of the run when it was saved. Raises UserError where it is another version's."""
    return _validated(HealthState, found.state.health, f"{found.checkpoint / store.RUN}: health")


def _validated(kind: type[M], values: Mapping[str, JsonValue], source: str) -> M:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{source}.{place}: {error.errors()[0]['msg']}; it is another version's") from None
