"""Saves in which ranks are killed at a phase, with their own hands: SIGKILL, which nothing can handle."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_mplug2.checkpoint import commit, storage, store
from megatron_mplug2.checkpoint.background import BackgroundSaver
from tests.checkpoint.runs import state_of
from tests.checkpoint.toy import Setup, Toy

Phase = tuple[Any, str, Callable[..., bool]]
"""Whose function, its name, and which of its calls (by its arguments)."""

PHASES: dict[str, Phase] = {
    "before": (store, "write", lambda *_: True),
    "inside a shard": (torch, "save", lambda *_, **__: True),
    "before COMMIT": (storage, "own_files", lambda *_: True),
    "before the index": (storage._Writer, "finish", lambda *_, **__: True),
    "while COMMIT is written": (os, "replace", lambda _, target: Path(target).name == "COMMIT"),
    "before the rename": (Path, "rename", lambda path, _: path.name.endswith("3.partial")),
    "before latest": (os, "replace", lambda _, target: Path(target).name == "latest"),
    "before pruning": (commit, "retain", lambda *_: True),
    "while pruning": (shutil, "rmtree", lambda path, **_: ".old" in str(path)),
}
BY_RANK_0 = tuple(PHASES)[3:]
"""Phases that only rank 0 goes through, so that no other could be killed there."""
COMMITTED = ("before the rename", "before latest", "before pruning", "while pruning")
"""In which the new checkpoint is complete."""


def killed_at(phase: str, victims: tuple[int, ...], folder: Path, setup: Setup, background: bool) -> None:
    """Saves after step 3, as the only one to keep; the victims don't come through the phase."""
    toy = Toy(setup)
    toy.train(0, 1)
    if int(os.environ["RANK"]) in victims:
        _arm(*PHASES[phase])
    job = folder, state_of(3), toy.weights, toy.optimizer, toy.topology, commit.Retention(last=1)
    if not background:
        store.save(*job)
        return
    saver = BackgroundSaver()
    saver.save(*job)
    toy.train(1, 3)
    saver.wait()


def _arm(owner: Any, name: str, here: Callable[..., bool]) -> None:
    function = getattr(owner, name)

    def killing(*args: Any, **kwargs: Any) -> Any:
        if here(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, killing)
