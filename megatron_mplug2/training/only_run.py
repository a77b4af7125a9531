"""One run at a time in a run folder: a second one would remove the checkpoint that the first is writing, and its figures."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import torch.distributed as dist

from megatron_mplug2.checkpoint.together import together
from megatron_mplug2.errors import UserError

LOCK = ".lock"
"""File in the run folder that rank 0 holds locked as long as it lives."""
PATIENCE_S = 180.0
"""How long a job's later start waits for the folder: ranks of the start before may live on, on a node that SLURM has lost. Longer than a
file server keeps the locks of a machine that is silent (90 s of NFS)."""
_POLL_S = 1.0


@contextmanager
def only_run(run_dir: Path) -> Iterator[None]:
    """Makes the run folder and keeps other runs out of it for the block. Collective over the world. A job that was started again waits.

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
    patience_s = PATIENCE_S if int(os.environ.get("SLURM_RESTART_COUNT", "0")) else 0.0
    deadline = time.monotonic() + patience_s
    with (run_dir / LOCK).open("w") as file:
        while not _taken(file):
            if time.monotonic() >= deadline:
                raise UserError(f"another run is using {run_dir}: wait until it has ended, or give this one another run_dir")
            time.sleep(_POLL_S)
        yield


def _taken(file: IO[str]) -> bool:
    """False where another process has the lock."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Else a file system without locks, as some clusters have: the run goes on unguarded.
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
