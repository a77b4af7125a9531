"""Stands for `python -m megatron_mplug2.cli` in a job: the command, an evaluation of which waits at its first batch for SLURM to end the
job's first start. The file WAITING says that it is there.

python waiting_evaluation.py -m megatron_mplug2.cli evaluate CONFIG
"""

import os
import sys
import time
from pathlib import Path

from launchers import local
from megatron_mplug2 import cli
from megatron_mplug2.data.evaluation_batches import EvaluationBatch
from megatron_mplug2.evaluation import pretraining

WAITING = Path("waiting")
PATIENCE_S = 240


def wait(stream: pretraining._Stream, batch: EvaluationBatch) -> None:
    WAITING.touch()
    time.sleep(PATIENCE_S)
    raise AssertionError("no signal")


def main() -> None:
    assert "/launches/" in str(local.__file__), "the code of the snapshot"
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        setattr(pretraining._Stream, "_add", wait)  # noqa: B010
    sys.argv = ["mplug2", *sys.argv[sys.argv.index("megatron_mplug2.cli") + 1 :]]
    cli.main()


if __name__ == "__main__":
    main()
