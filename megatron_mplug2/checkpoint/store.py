"""Saves and loads a run: any layout reads what any other wrote. All but `read_run` are collective over the world."""

import shutil
import threading
from collections import ChainMap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from pydantic import ValidationError

from megatron_mplug2.checkpoint import commit, newest, storage
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.commit_file import FileSum, checksum
from megatron_mplug2.checkpoint.compare import Sizes, check_fits
from megatron_mplug2.checkpoint.contents import AVERAGE, WEIGHT, copies_to_load, key_of, pieces_to_load, pieces_to_save, sizes
from megatron_mplug2.checkpoint.newest import Good
from megatron_mplug2.checkpoint.optimizer_state import Optimizer
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.checkpoint.storage import StoredTensors
from megatron_mplug2.checkpoint.together import from_rank_0, gather, together
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology

RUN = "run.json"
"""File of the run's state."""

TURN = threading.Lock()
"""Held by this rank while it writes a checkpoint: the collectives of two at once would meet in another order on each rank."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint to load from, every byte of it verified."""

    checkpoint: Path
    state: RunState
    stored: StoredTensors
    said: tuple[str, ...] = ()
    """A line for each newer checkpoint that was skipped."""


def checkpoint_folder(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def recover(folder: Path) -> None:
    """Finishes what a kill has left of a complete save. For the run that saves here, before it looks for the newest."""
    with together(f"write into {folder}"):
        if dist.get_rank() == 0:
            commit.recover(folder)


def find(folder: Path) -> Found | tuple[str, ...]:
    """The newest good checkpoint; where there never was one, a line for each unfinished one.

    Raises:
        UserError: there are checkpoints but none is good, or one is of a newer version.
    """
    choice = newest.choose(folder)
    return _opened(choice.good, choice.said) if choice.good is not None else choice.said


def find_in(place: Path) -> Found:
    """That of a checkpoint's own folder, or the newest good one of a run's folder or of its folder of checkpoints.

    Raises:
        UserError: there is none, or none is good.
    """
    if commit.step_of(place.name) is not None:
        return _opened(newest.open_good(place), ())
    folder = from_rank_0(place if any(place.glob("step-*")) else checkpoint_folder(place))
    found = find(folder)
    if not isinstance(found, Found):
        raise UserError(f"no checkpoint in {folder}: train first, or name a run that has one")
    return found


def find_best(place: Path) -> Found:
    """`find_in`, but of a run that keeps its best checkpoint (`downstream.best`) that one.

    Raises:
        UserError: there is none, or it is not good.
    """
    found = find_in(place)
    best = found.state.best_step
    if commit.step_of(place.name) is not None or best in (None, found.state.step):
        return found
    return _opened(newest.open_good(found.checkpoint.with_name(commit.folder_name(best))), found.said)


def save(
    folder: Path,
    state: RunState,
    weights: list[Weight],
    optimizer: Optimizer | None,
    topology: Topology,
    retention: Retention,
    beside: Sequence[Piece] = (),
) -> Path:
    """Writes a checkpoint, makes it the latest, and removes those that need not stay.

    Rank 0's `state` is written; the folder of the checkpoint is returned. A checkpoint of the same step is replaced. `beside`: this rank's
    pieces of what the run keeps beside weights and optimizer state. Waits for a save that is in flight beside the steps.

    Raises:
        UserError: a rank cannot write, or ranks don't share the folder. The checkpoints from before are as they were.
    """
    with TURN:
        return write(folder, state, [*pieces_to_save(weights, optimizer, topology), *beside], topology, retention)


def write(folder: Path, state: RunState, pieces: list[Piece], topology: Topology, retention: Retention) -> Path:
    """`save` of pieces, which must not change meanwhile, by the holder of `TURN`.

    Its collectives are in a group of their own: it may run beside a step.
    """
    partial = folder / (commit.folder_name(state.step) + commit.PARTIAL)
    work, group = f"write a checkpoint in {folder}", topology.background_group
    try:
        with together(work, group):
            if topology.rank == 0:
                commit.begin(folder, state.step)
                commit.replace_durably(partial / RUN, state.model_dump_json(indent=1))
        storage.write(partial, pieces, group)
        with together(work, group):
            own = _checksums(partial, topology)
        files = dict(ChainMap(*gather(own, group)))
        with together(work, group):
            if topology.rank == 0:
                commit.commit(partial, state.step, files)
                commit.retain(folder, state.step, retention)
    except UserError:
        if topology.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder / commit.folder_name(state.step)


def load(found: Found, weights: list[Weight], optimizer: Optimizer, topology: Topology, beside: Sequence[Piece] = ()) -> None:
    """Restores weights and optimizer state in place, and fills the pieces of what the run keeps `beside` them.

    Raises:
        UserError: it is of another model or optimizer.
    """
    expected = sizes(weights, optimizer) | {piece.key: piece.full_size for piece in beside}
    _check(found.checkpoint, found.stored.sizes(), expected, topology)
    with together(f"read {found.checkpoint}"):
        found.stored.read([*pieces_to_load(weights, optimizer, topology), *beside])


def load_weights(found: Found, weights: list[Weight], topology: Topology) -> None:
    """Restores weights alone, for evaluation or as a start: the optimizer, if there will be one, is made afterwards.

    Where the run keeps averages over steps (`training.ema`), these.

    Raises:
        UserError: it is of another model.
    """
    stored = found.stored.sizes()
    _check(found.checkpoint, _weights(stored), sizes(weights, None), topology)
    averaged = [weight for weight in weights if key_of(AVERAGE, weight.name) in stored]
    others = [weight for weight in weights if key_of(AVERAGE, weight.name) not in stored]
    averages = copies_to_load(AVERAGE, averaged, [weight.param.detach() for weight in averaged], topology)
    with together(f"read {found.checkpoint}"):
        found.stored.read([*pieces_to_load(others, None, topology), *averages])


def load_modules(found: Found, modules: Collection[str], weights: list[Weight], optimizer: Optimizer, topology: Topology) -> None:
    """Restores the weights of some modules, and the optimizer's copies of them, as a start of another run.

    A module is the beginning of canonical names up to a dot, such as "vision" or "text.layers.0". All others stay as they are.

    Raises:
        UserError: a module names no weight of the model, or the checkpoint doesn't have exactly the model's weights of it.
    """
    everywhere = dict(ChainMap(*gather(sizes(weights, None), topology.groups.pp)))
    with together(f"read {found.checkpoint}"):
        for module in modules:
            if not any(_is_of(key, (module,)) for key in everywhere):
                tops = ", ".join(dict.fromkeys(key.removeprefix(key_of(WEIGHT, "")).split(".")[0] for key in sorted(everywhere)))
                raise UserError(f"initialise_from.modules: the model has no {module!r}; its modules begin with {tops}")
    expected = {key: size for key, size in everywhere.items() if _is_of(key, modules)}
    stored = {key: size for key, size in found.stored.sizes().items() if _is_of(key, modules)}
    with together(f"read {found.checkpoint}"):
        check_fits(found.checkpoint, stored, expected)
        own = [weight for weight in weights if _is_of(key_of(WEIGHT, weight.name), modules)]
        found.stored.read([piece for piece in pieces_to_load(own, optimizer, topology) if _is_of(piece.key, modules)])


def read_run(checkpoint: Path) -> RunState:
    """The state of a run. Not collective, and nothing is verified. Raises UserError where it is none."""
    try:
        return RunState.model_validate_json((checkpoint / RUN).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{checkpoint} has no {RUN}: it is not a checkpoint of this program") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{checkpoint / RUN} is not the state of a run: {place}: {first['msg']}") from None


def _is_of(key: str, modules: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{key_of(WEIGHT, module)}.") for module in modules)


def _weights(found: Sizes) -> Sizes:
    return {key: size for key, size in found.items() if key.startswith(key_of(WEIGHT, ""))}


def _checksums(partial: Path, topology: Topology) -> dict[str, FileSum]:
    """Of this rank's files, read back."""
    own = storage.own_files(partial, topology.rank)
    if topology.rank == 0:
        own += [partial / storage.INDEX, partial / RUN]
    return {path.name: checksum(path) for path in own}


def _opened(good: Good, said: tuple[str, ...]) -> Found:
    with together(f"read {good.path}"):
        stored = StoredTensors(good.path, good.content.files)
        return Found(checkpoint=good.path, state=read_run(good.path), stored=stored, said=said)


def _check(checkpoint: Path, found: Sizes, stage: Sizes, topology: Topology) -> None:
    """Against what all ranks of this rank's model replica have: all stages, and of a vocabulary a rank may hold padding alone."""
    expected = dict(ChainMap(*gather(dict(stage), topology.model_parallel_group)))
    with together(f"read {checkpoint}"):
        check_fits(checkpoint, found, expected)
