"""Saves and loads a run: any layout reads what any other wrote. All but `read_state` are collective over the world."""

import shutil
from collections import ChainMap
from pathlib import Path

import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from pydantic import ValidationError

from megatron_mplug2.checkpoint import commit, storage
from megatron_mplug2.checkpoint.compare import check_fits
from megatron_mplug2.checkpoint.contents import WEIGHT, key_of, pieces_to_load, pieces_to_save, sizes
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.checkpoint.storage import StoredTensors
from megatron_mplug2.checkpoint.together import from_rank_0, gather, together
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology

RUN = "run.json"
"""File of the run's state."""


def checkpoint_folder(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def latest(folder: Path) -> int | None:
    """Step of the checkpoint that a run goes on from, the same on every rank; None where there is none. Collective over the world."""
    step = None
    with together(f"read {folder}"):
        if dist.get_rank() == 0:
            step = commit.latest(folder)
    return from_rank_0(step)


def save(
    folder: Path, state: RunState, weights: list[Weight], optimizer: MegatronOptimizer | None, topology: Topology, *, keep: int
) -> Path:
    """Writes a checkpoint, makes it the latest, and removes all but the last `keep`.

    Rank 0's `state` is written; the folder of the checkpoint is returned. A checkpoint of the same step is replaced.

    Raises:
        UserError: a rank cannot write, or ranks don't share the folder. The checkpoints from before are as they were.
    """
    partial = folder / (commit.folder_name(state.step) + commit.PARTIAL)
    work = f"write a checkpoint in {folder}"
    try:
        with together(work):
            if topology.rank == 0:
                commit.begin(folder, state.step)
                commit.write_durably(partial / RUN, state.model_dump_json(indent=1))
        storage.write(partial, pieces_to_save(weights, optimizer, topology))
        with together(work):
            own = _checksums(partial, topology)
        files = dict(ChainMap(*gather(own)))
        with together(work):
            if topology.rank == 0:
                commit.commit(partial, state.step, files)
                commit.retain(folder, state.step, keep)
    except UserError:
        if topology.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder / commit.folder_name(state.step)


def load(folder: Path, weights: list[Weight], optimizer: MegatronOptimizer, topology: Topology, *, step: int | None = None) -> RunState:
    """Restores weights and optimizer state in place from the latest checkpoint, or that of `step`.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is of another model or optimizer.
    """
    checkpoint, stored = _open(folder, step, topology)
    _check(checkpoint, stored.sizes(), sizes(weights, optimizer), topology)
    with together(f"read {checkpoint}"):
        stored.read(pieces_to_load(weights, optimizer, topology))
        return _read_run(checkpoint)


def load_weights(folder: Path, weights: list[Weight], topology: Topology, *, step: int | None = None) -> RunState:
    """Restores weights alone, for evaluation or as a start: the optimizer, if there will be one, is made afterwards.

    Raises:
        UserError: as `load`.
    """
    checkpoint, stored = _open(folder, step, topology)
    found = {key: size for key, size in stored.sizes().items() if key.startswith(key_of(WEIGHT, ""))}
    _check(checkpoint, found, sizes(weights, None), topology)
    with together(f"read {checkpoint}"):
        stored.read(pieces_to_load(weights, None, topology))
        return _read_run(checkpoint)


def read_state(folder: Path, *, step: int | None = None) -> RunState:
    """The state of a run without its tensors, e.g. to build the run from. Not collective.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    checkpoint = commit.find(folder, step)
    files = commit.read_commit(checkpoint).files
    if RUN not in files:
        raise UserError(f"{checkpoint} has no {RUN}: it is not a checkpoint of this program")
    commit.verify(checkpoint, RUN, files[RUN])
    return _read_run(checkpoint)


def _checksums(partial: Path, topology: Topology) -> dict[str, commit.FileSum]:
    """Of this rank's files, read back."""
    own = storage.own_files(partial, topology.rank)
    if topology.rank == 0:
        own += [partial / storage.INDEX, partial / RUN]
    return {path.name: commit.checksum(path) for path in own}


def _open(folder: Path, step: int | None, topology: Topology) -> tuple[Path, StoredTensors]:
    """Chosen by rank 0, every file verified by some rank."""
    chosen = None
    with together(f"read {folder}"):
        if topology.rank == 0:
            chosen = commit.find(folder, step)
    checkpoint = from_rank_0(chosen)
    assert checkpoint is not None
    with together(f"read {checkpoint}"):
        files = commit.read_commit(checkpoint).files
        for name in sorted(files)[topology.rank :: topology.world_size]:
            commit.verify(checkpoint, name, files[name])
    with together(f"read {checkpoint}"):
        return checkpoint, StoredTensors(checkpoint, files)


def _check(checkpoint: Path, found: dict[str, tuple[int, ...]], stage: dict[str, tuple[int, ...]], topology: Topology) -> None:
    """Against the weights of all stages of this rank's pipeline."""
    expected = dict(ChainMap(*gather(stage, topology.groups.pp)))
    with together(f"read {checkpoint}"):
        check_fits(checkpoint, found, expected)


def _read_run(checkpoint: Path) -> RunState:
    try:
        return RunState.model_validate_json((checkpoint / RUN).read_bytes())
    except ValidationError as error:
        raise UserError(f"{checkpoint / RUN} is not the state of a run: {error.errors()[0]['msg']}") from None
