"""Signals as a wish, the cluster's too: at any time of a process's life it is noted or ignored, and never ends it."""

import os
import signal
import subprocess
import sys

import pytest

from launchers.stop_signal import STOP_SIGNAL
from megatron_mplug2.training.interrupt import Interrupt


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, STOP_SIGNAL])
def test_a_signal_is_noted(signum: signal.Signals) -> None:
    with Interrupt() as interrupt:
        assert not interrupt.asked()
        os.kill(os.getpid(), signum)
        assert interrupt.asked()


SCRIPT = """
import os
from launchers.stop_signal import STOP_SIGNAL, hold_back
hold_back()
os.kill(os.getpid(), STOP_SIGNAL)
from megatron_mplug2.training.interrupt import Interrupt
with Interrupt() as interrupt:
    assert interrupt.asked()
os.kill(os.getpid(), STOP_SIGNAL)
print("lives")
"""


def test_a_signal_before_it_is_not_lost_and_one_after_it_does_nothing() -> None:
    """In a process of its own: what is asked is what the whole process does."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr
