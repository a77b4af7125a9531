"""The run's checkpoints: going on from the latest, and saving the next."""

from pathlib import Path

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.load import parse_resolved, resolved_yaml
from megatron_mplug2.config.resume import check_resume
from megatron_mplug2.data.state import DataState
from megatron_mplug2.training.engine import Engine


def resume(engine: Engine) -> DataState | None:
    """Restores the latest checkpoint; None where there is none. Collective over the world.

    Raises UserError where the config differs from the checkpoint's in a key that may not change, or the checkpoint is damaged.
    """
    folder = store.checkpoint_folder(engine.config.run_dir)
    step = store.latest(folder)
    if step is None:
        return None
    found = store.read_state(folder, step=step).config
    check_resume(parse_resolved(found, f"the config in the checkpoint of step {step} in {folder}"), engine.config)
    state = store.load(folder, engine.weights, engine.optimizer, engine.topology, step=step)
    return DataState.model_validate(state.data)


def save(engine: Engine, data: DataState) -> Path:
    """Writes a checkpoint after `data.steps` steps; returns its folder. Collective over the world."""
    config = engine.config
    state = RunState(step=data.steps, config=resolved_yaml(config), data=data.model_dump(mode="json"))
    folder = store.checkpoint_folder(config.run_dir)
    return store.save(
        folder,
        state,
        engine.weights,
        engine.optimizer,
        engine.topology,
        keep=config.training.keep_checkpoints,
    )
