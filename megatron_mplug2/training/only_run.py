"""One run at a time in a run folder: a second one would remove the checkpoint that the first is writing, and its figures."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch.distributed as dist

from megatron_mplug2.checkpoint.together import together
from megatron_mplug2.errors import UserError

LOCK = ".lock"
"""File in the run folder that rank 0 holds locked as long as it lives."""


@contextmanager
def only_run(run_dir: Path) -> Iterator[None]:
    """Makes the run folder and keeps other runs out of it for the block. Collective over the world.

    Raises UserError where another run is in it, or it cannot be written.
    """
    with ExitStack() as held:
        with together(f"write into {run_dir}"):
            if dist.get_rank() == 0:
                held.enter_context(_locked(run_dir))
        yield


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """By a POSIX lock: the system lifts it when the process dies, however that comes, and forked workers don't inherit it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"another run is using {run_dir}: wait until it has ended, or give this one another run_dir") from None
            # Else a file system without locks, as some clusters have: the run goes on unguarded.
        yield
