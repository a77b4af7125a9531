"""Work that cannot be gone on with, when the cluster asks it to stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from launchers.local import launch
from launchers.stop_signal import STOP_SIGNAL, cut_short_at_stop
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import CutShortError
from tests.launchers.test_local import config_of

LIMIT_S = 60


def asked_at_work(config: RunConfig) -> None:
    """As by the cluster, whose signal goes to the process that started the ranks."""
    dist.barrier()
    if dist.get_rank() == 0:
        os.kill(os.getppid(), STOP_SIGNAL)
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except Exception:  # as a broken sample is passed over
            continue


def test_local_ranks_are_told_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CutShortError, match=r"^not resumed$"):
        launch(config_of(tmp_path, "layout.data=2"), cut_short_at_stop(asked_at_work, "not resumed"))
    assert "Traceback" not in capfd.readouterr().err


SCRIPT = """
import os, time
from launchers.stop_signal import STOP_SIGNAL, hold_back, cut_short_at_stop
from megatron_mplug2.errors import CutShortError
hold_back()
os.kill(os.getpid(), STOP_SIGNAL)
try:
    cut_short_at_stop(time.sleep, "not resumed")(60)
except CutShortError as error:
    os.kill(os.getpid(), STOP_SIGNAL)
    print(error)
"""


def test_a_signal_before_the_work_is_not_lost_and_one_after_it_does_nothing() -> None:
    """In a process of its own: what is asked is what the whole process does."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "not resumed\n"), done.stderr
