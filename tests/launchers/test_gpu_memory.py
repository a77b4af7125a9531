"""What a machine's GPUs hold is asked of the driver's tool. Here a script stands for it: the machines of the tests have no GPU."""

from pathlib import Path

import pytest
import torch

from launchers.gpu_memory import check_gpu_memory, smallest_gpu_gb
from megatron_mplug2.config.load import load_config
from megatron_mplug2.errors import UserError
from tests.models.sizes import CONFIGS

CONFIG = load_config(CONFIGS.parent / "pretrain/base.yaml")


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that writes its arguments down and tells of two GPUs."""
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho 81559\necho 40960\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return script


def test_the_smallest_counts(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert smallest_gpu_gb() == pytest.approx(40960 * 2**20 / 1e9)
    assert "--id" not in (tool.parent / "asked").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    smallest_gpu_gb()
    assert (tool.parent / "asked").read_text().strip().endswith("--id 1,3")


@pytest.mark.parametrize("body", ["exit 9", "echo '[N/A]'", "true"])
def test_a_tool_that_does_not_know_says_nothing(tool: Path, body: str) -> None:
    tool.write_text(f"#!/bin/sh\n{body}\n")
    assert smallest_gpu_gb() is None


def test_a_run_that_does_not_fit_is_refused_where_there_are_gpus(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.write_text("#!/bin/sh\necho 8192\n")
    check_gpu_memory(CONFIG)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"^rank 0 \(stage 0 of 1\) needs about .*, and a GPU of this machine has 8.6: "):
        check_gpu_memory(CONFIG)
    tool.write_text("#!/bin/sh\necho 81559\n")
    check_gpu_memory(CONFIG)
