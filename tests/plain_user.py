"""A command as a person runs it to whom files may be closed: root, as which tests may run, reads and writes everything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PLAIN = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
"""Takes from root what lets it pass over permissions."""

needs_plain_user = pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root, and no setpriv")


def as_plain_user(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """`mplug2 WORDS`."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    whole = (*(_PLAIN if os.geteuid() == 0 else ()), sys.executable, "-m", "megatron_mplug2.cli", *map(str, words))
    return subprocess.run(whole, env=environ, capture_output=True, text=True, timeout=120, check=False)
