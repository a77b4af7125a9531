"""What is in checkpoints, told without a run: no ranks, no tensors in memory, and nothing of a checkpoint is executed."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import yaml

from megatron_mplug2.checkpoint import commit, newest, store
from megatron_mplug2.checkpoint.commit_file import COMMIT, Commit, DamagedError, fault_of, read_commit
from megatron_mplug2.checkpoint.contents import WEIGHT
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.checkpoint.storage import StoredTensor, StoredTensors
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Of one checkpoint."""

    checkpoint: Path
    commit: Commit
    state: RunState
    tensors: tuple[StoredTensor, ...]
    """By key, `kind/canonical name`."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.commit.files.values())

    def weights(self) -> dict[str, StoredTensor]:
        """Canonical name -> the weight."""
        return {tensor.key.removeprefix(f"{WEIGHT}/"): tensor for tensor in self.tensors if tensor.key.startswith(f"{WEIGHT}/")}

    def optimizer_kinds(self) -> list[str]:
        """Kinds of optimizer state, such as "exp_avg"."""
        return sorted({tensor.key.split("/")[0] for tensor in self.tensors} - {WEIGHT})

    def layout(self) -> str:
        """That it was saved at, such as "tensor 2, pipeline 1, data 4, zero1 True"; "unknown" where its config does not say."""
        try:
            layout = yaml.safe_load(self.state.config)["layout"]
            return ", ".join(f"{key} {layout[key]}" for key in ("tensor", "pipeline", "data", "zero1"))
        except (yaml.YAMLError, KeyError, TypeError):
            return "unknown"

    def parameters_by_module(self) -> dict[str, int]:
        """First part of the canonical name -> parameters."""
        counts: dict[str, int] = defaultdict(int)
        for name, tensor in self.weights().items():
            counts[name.split(".")[0]] += prod(tensor.size)
        return dict(counts)


def checkpoints_folder(place: Path) -> Path:
    """Where the checkpoints of a run's folder, or of the folder of checkpoints itself, are.

    Raises UserError where there is none, and where a folder cannot be read.
    """
    for folder in (store.checkpoint_folder(place), place):
        newest.check_readable(folder)
        if any(folder.glob("step-*")):
            return folder
    raise UserError(f"no checkpoint in {place}: name a run's folder, or a checkpoint's")


def verify(place: Path) -> tuple[list[Path], list[str]]:
    """Reads every byte of a checkpoint, or of all of a run's. What was read, and a line for each fault.

    What a run that goes on removes in the meantime, since it is old, is left out.

    Raises UserError where there is no checkpoint, or one is of another format.
    """
    if commit.step_of(place.name) is not None:
        if not place.is_dir():
            raise UserError(f"no checkpoint in {place}")
        return [place], list(_faults(place))
    listing = newest.listing(checkpoints_folder(place))
    found = {candidate.path: list(_faults(candidate.path)) for candidate in (*listing.complete, *listing.damaged)}
    checkpoints = sorted(path for path in found if path.is_dir())
    return checkpoints, [fault for checkpoint in checkpoints for fault in found[checkpoint]]


def _faults(checkpoint: Path) -> Iterator[str]:
    try:
        content = read_commit(checkpoint)
    except DamagedError as damage:
        yield str(damage)
        return
    for name, expected in sorted(content.files.items()):
        if fault := fault_of(checkpoint / name, expected):
            yield f"{checkpoint}: {fault}"


def checkpoint_of(place: Path) -> Path:
    """A checkpoint's folder itself, or the newest complete one of a run's. Raises UserError where a run has none."""
    if commit.step_of(place.name) is not None or (place / COMMIT).exists():
        return place
    complete = newest.listing(checkpoints_folder(place)).complete
    if not complete:
        raise UserError(f"no complete checkpoint in {place}: `mplug2 checkpoint list {place}` tells what is damaged or unfinished")
    return complete[0].path


def best_checkpoint_of(place: Path) -> Path:
    """`checkpoint_of`, but of a run that keeps its best checkpoint (`downstream.best`) that one, as `store.find_best`."""
    checkpoint = checkpoint_of(place)
    best = store.read_run(checkpoint).best_step
    return checkpoint if checkpoint == place or best is None else checkpoint.with_name(commit.folder_name(best))


def inspect(checkpoint: Path) -> Contents:
    """Raises UserError where it is no checkpoint, or its small files are damaged; the tensors' own files are not read."""
    content = read_commit(checkpoint)
    for name, expected in content.files.items():
        if not name.endswith(".distcp") and (fault := fault_of(checkpoint / name, expected)):
            raise UserError(f"{checkpoint}: {fault}")
    stored = StoredTensors(checkpoint, content.files)
    return Contents(checkpoint=checkpoint, commit=content, state=store.read_run(checkpoint), tensors=stored.tensors())
