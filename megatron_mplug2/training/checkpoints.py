"""The run's checkpoints: going on from the newest good one, and saving the next."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.load import parse_resolved, resolved_yaml
from megatron_mplug2.config.resume import check_resume
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.state import DataState
from megatron_mplug2.errors import UserError
from megatron_mplug2.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins or goes on."""

    state: DataState | None = None
    """None at the very beginning."""
    said: tuple[str, ...] = ()
    """Lines about checkpoints that were skipped."""


def start(engine: Engine) -> Start:
    """Restores the newest good checkpoint, where there is one. Collective over the world.

    Raises UserError where the config differs from the checkpoint's in a key that may not change, where it is of another model or of a
    newer version, and where there are checkpoints but none is good.
    """
    folder = store.checkpoint_folder(engine.config.run_dir)
    store.recover(folder)
    found = store.find(folder)
    if not isinstance(found, store.Found):
        return Start(said=found)
    check_resume(_config_of(found), engine.config)
    state = _data_state(found)
    beside = engine.momentum.pieces_to_load(engine.topology) if engine.momentum is not None else ()
    store.load(found, engine.weights, engine.optimizer, engine.topology, beside)
    return Start(state=state, said=found.said)


def save(engine: Engine, data: DataState) -> Path:
    """Writes a checkpoint after `data.steps` steps; returns its folder. Collective over the world."""
    config = engine.config
    state = RunState(step=data.steps, config=resolved_yaml(config), data=data.model_dump(mode="json"))
    folder = store.checkpoint_folder(config.run_dir)
    beside = engine.momentum.pieces_to_save(engine.topology) if engine.momentum is not None else ()
    return store.save(folder, state, engine.weights, engine.optimizer, engine.topology, retention(config), beside)


def retention(config: RunConfig) -> Retention:
    return Retention(last=config.training.keep_checkpoints, every=config.training.keep_every)


def _config_of(found: store.Found) -> RunConfig:
    """In one line what this version cannot read, which is then another's."""
    source = f"the config in {found.checkpoint}"
    try:
        return parse_resolved(found.state.config, source)
    except UserError as error:
        first, *others = (line.strip() for line in str(error).splitlines())
        raise UserError(f"{': '.join([first, *others[:1]])}; it is another version's") from None


def _data_state(found: store.Found) -> DataState:
    try:
        return DataState.model_validate(found.state.data)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{found.checkpoint / store.RUN}: data.{place}: {error.errors()[0]['msg']}; it is another version's") from None
