"""Which checkpoint a run goes on from: the newest good one, the same on every rank, with a word on each newer one that is not."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.checkpoint.commit_file import COMMIT, Commit, DamagedError, fault_of, read_commit
from megatron_mplug2.checkpoint.together import from_rank_0, gather, together
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A folder that may be a checkpoint."""

    path: Path
    step: int
    content: Commit | None
    """None where it is not to be read, for the fault."""
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in a folder of checkpoints, looked at without reading tensors."""

    complete: tuple[Candidate, ...]
    """With a readable COMMIT, the one written last first."""
    damaged: tuple[Candidate, ...]
    """Complete once, the highest step first."""
    unfinished: tuple[Candidate, ...]
    """Left by a kill, or being written."""
    pointer: str | None
    """What the file `latest` says; None where it is missing."""


@dataclass(frozen=True, kw_only=True)
class Good:
    """A checkpoint every byte of which is as it was committed."""

    path: Path
    content: Commit


@dataclass(frozen=True, kw_only=True)
class Choice:
    good: Good | None
    """None where a run begins here."""
    said: tuple[str, ...]
    """A line for each newer checkpoint that was skipped, and for other traces of a kill."""


def check_readable(folder: Path) -> None:
    """Raises UserError for a folder that may not be looked into: it would seem to have no checkpoint."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None


def listing(folder: Path) -> Listing:
    """Raises UserError where a checkpoint is of a newer format, or the folder cannot be read."""
    check_readable(folder)
    damaged, unfinished = [], []
    complete = [Candidate(path=path, step=content.step, content=content) for path, content in commit.by_age(folder)]
    known = {candidate.path for candidate in complete}
    for path in sorted(folder.glob("step-*"), reverse=True):
        step = commit.step_of(path.name.removesuffix(commit.PARTIAL))
        if step is None or path in known or not path.is_dir():
            continue
        if path.name.endswith(commit.PARTIAL):
            unfinished.append(Candidate(path=path, step=step, content=None, fault="its save was not finished"))
        else:
            damaged.append(Candidate(path=path, step=step, content=None, fault=_commit_fault(path)))
    pointer = folder / commit.LATEST
    return Listing(
        complete=tuple(complete),
        damaged=tuple(damaged),
        unfinished=tuple(unfinished),
        pointer=pointer.read_text(errors="replace").strip() if pointer.is_file() else None,
    )


def choose(folder: Path) -> Choice:
    """Reads every byte of the candidates, newest first, until one is good; ranks share the files. Collective over the world.

    Raises UserError, in one line, where there are checkpoints and none is good, or one is of a newer format.
    """
    found = None
    with together(f"read {folder}"):
        if dist.get_rank() == 0:
            found = listing(folder)
    found = from_rank_0(found)
    assert found is not None
    bad: list[Candidate] = []
    for candidate in found.complete:
        assert candidate.content is not None
        fault = _fault(candidate.path, candidate.content)
        if fault is None:
            good = Good(path=candidate.path, content=candidate.content)
            return Choice(good=good, said=_said(bad, found, good))
        bad.append(Candidate(path=candidate.path, step=candidate.step, content=None, fault=fault))
    _check_fresh(folder, [*bad, *found.damaged], found.pointer)
    return Choice(good=None, said=tuple(f"skipped {left.path}: {left.fault}" for left in found.unfinished))


def open_good(checkpoint: Path) -> Good:
    """A checkpoint that is asked for by its folder. Collective over the world; raises UserError where it is not whole."""
    content = None
    with together(f"read {checkpoint}"):
        if dist.get_rank() == 0:
            content = read_commit(checkpoint)
    content = from_rank_0(content)
    assert content is not None
    fault = _fault(checkpoint, content)
    if fault is not None:
        raise UserError(f"{checkpoint}: {fault}: take another checkpoint")
    return Good(path=checkpoint, content=content)


def _fault(checkpoint: Path, content: Commit) -> str | None:
    """The first fault that a rank finds in its share of the files, the same on every rank."""
    own = sorted(content.files)[dist.get_rank() :: dist.get_world_size()]
    found = next((fault for name in own if (fault := fault_of(checkpoint / name, content.files[name]))), None)
    return next((fault for fault in gather(found) if fault), None)


def _said(bad: list[Candidate], found: Listing, good: Good) -> tuple[str, ...]:
    newer = [left for left in (*found.damaged, *found.unfinished) if left.step > good.content.step]
    said = [f"skipped {left.path}: {left.fault}" for left in (*bad, *newer)]
    if found.pointer is None:
        said.append(f"{good.path.parent / commit.LATEST} is missing: {good.path.name} is the newest good checkpoint")
    elif found.pointer != good.path.name and not said:
        said.append(f"{good.path.parent / commit.LATEST} names {found.pointer!r}: {good.path.name} is the newest good checkpoint")
    return tuple(said)


def _check_fresh(folder: Path, bad: list[Candidate], pointer: str | None) -> None:
    """Raises where a run was here, so that nobody trains anew unaware."""
    what_to_do = "put a good one back, or start anew in another run_dir"
    if bad:
        faults = ", ".join(f"{left.path.name} ({left.fault})" for left in bad)
        raise UserError(f"no good checkpoint in {folder}: {faults}; {what_to_do}")
    if pointer is not None:
        raise UserError(f"no checkpoint in {folder}, where {commit.LATEST} names {pointer!r}; {what_to_do}")


def _commit_fault(checkpoint: Path) -> str:
    try:
        read_commit(checkpoint)
    except DamagedError as damage:
        return str(damage).removeprefix(f"{checkpoint}/")
    return f"{COMMIT} is damaged"
