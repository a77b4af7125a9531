"""A training step keeps to one device, on a machine that has no other: whole steps over fake tensors on a GPU that is not there.

What runs on a GPU alone is called here too: Megatron-Core without a shim, the functions around the Triton kernels, copies to the device.
Nothing is computed; that kernels find the right numbers, `test_gpu_kernels.py` says.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.fake_gpu import shim

COMPILER = shutil.which("g++")
pytestmark = [pytest.mark.long, pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None
    out = tmp_path_factory.mktemp("shim") / "shim.so"
    shim.build(COMPILER, out)
    return out


@pytest.mark.parametrize(
    ("ranks", "case"), [(1, "fp32"), (1, "dropout"), (1, "recompute"), (1, "queue"), (2, "data"), (2, "tensor"), (2, "sequence")]
)
def test_steps_keep_to_the_device(ranks: int, case: str, built: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.fake_gpu", str(built), str(ranks), case]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stdout.endswith("every tensor was where it belongs\n")
