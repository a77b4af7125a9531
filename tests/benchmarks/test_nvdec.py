"""What can be said of the benchmark of NVDEC without one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import nvdec
from megatron_mplug2.data.decoding.pyav import PyavDecoder

PROJECT = Path(__file__).parents[2]
SIZE = (64, 48)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_in_one_line() -> None:
    result = PROJECT / "benchmarks" / "results" / "nvdec.json"
    before = result.read_bytes() if result.exists() else None
    done = subprocess.run([sys.executable, "-m", "benchmarks.nvdec"], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: NVDEC cannot be measured here: torch sees no GPU; run it on a machine with one\n"
    assert (result.read_bytes() if result.exists() else None) == before


def test_every_frame_counts_and_none_from_another_decoder() -> None:
    request = nvdec._request(nvdec._clip(SIZE, 0))
    nvdec._decoded(PyavDecoder(), [request], "cpu")
    with pytest.raises(SystemExit, match="error: the decoder gave cpu, not cuda"):
        nvdec._decoded(PyavDecoder(), [request], "cuda")
