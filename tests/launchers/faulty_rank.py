"""Stands for `python -m megatron_mplug2.cli` in a job: the command, with a fault in each of the job's first two starts.

In start 0 rank 3 is killed at step 7; in start 1 SLURM is told to send the signal of a time limit at step 8; later ones run undisturbed.
"""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from launchers import local
from megatron_mplug2 import cli
from megatron_mplug2.training.engine import Engine

KILLED_AT, STOPPED_AT = 7, 8


def kill(engine: Engine) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def reach_the_time_limit(engine: Engine) -> None:
    subprocess.run(["scancel", "--signal=USR2", os.environ["SLURM_JOB_ID"]], check=True, timeout=60)


def main() -> None:
    assert "/launches/0001/code/" in str(local.__file__), "the code of the snapshot"
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.training.faults import fault_at

    faults = {0: fault_at(KILLED_AT, 3, kill), 1: fault_at(STOPPED_AT, 0, reach_the_time_limit)}
    with ExitStack() as stack:
        start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if start in faults:
            stack.enter_context(faults[start])
        sys.argv = ["mplug2", *sys.argv[sys.argv.index("megatron_mplug2.cli") + 1 :]]
        cli.main()


if __name__ == "__main__":
    main()
