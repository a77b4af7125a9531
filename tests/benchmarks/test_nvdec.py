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


def test_a_round_of_the_processes_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(nvdec, "SECONDS", 0.1)
    monkeypatch.setattr(nvdec, "CORES", 2)
    figures = nvdec._on_all_cores("small", [nvdec._request(nvdec._clip(SIZE, seed)) for seed in range(2)], rounds=2)
    assert figures["frames_per_s"]["quartile1"] > 0
    assert capfd.readouterr().out.startswith("small       PyAV, 2 processes:")


def test_a_rate_is_that_of_whole_calls_and_of_one_at_least() -> None:
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        return 100

    assert nvdec._rate(call, seconds=0.0) > 0 and calls == 1
    assert nvdec._rate(call, seconds=0.01) > 0 and calls > 2
