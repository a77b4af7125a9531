"""Joining ranks that torchrun or srun started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.ranks import Ranks, check_world_size, joined_ranks
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.errors import UserError

PROJECT = Path(__file__).parents[2]
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_JOB_NODELIST": "node[01-99]",
}


def test_nobody_started_ranks() -> None:
    assert joined_ranks({}) is None


def test_torchrun() -> None:
    environ = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert joined_ranks(environ) == Ranks(rank=3, world_size=4, local_rank=1, init_method="env://", started_by="torchrun")


def test_srun_meets_on_the_first_node_of_its_step(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[07-08]" ] && printf "node07\\nnode08\\n"\n')
    scontrol.chmod(0o755)
    found = joined_ranks({**SRUN, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert found == Ranks(rank=5, world_size=8, local_rank=1, init_method="tcp://node07:23458", started_by="srun")


def test_srun_with_the_place_given() -> None:
    found = joined_ranks({**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "1234"})
    assert found is not None
    assert found.init_method == "tcp://head:1234"


def test_srun_without_scontrol_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"node\[07-08\].*set MASTER_ADDR"):
        joined_ranks({**SRUN, "PATH": str(tmp_path)})


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"},
    ],
    ids=["batch script", "srun --pty bash"],
)
def test_a_shell_in_a_job_starts_its_own_ranks(environ: dict[str, str]) -> None:
    assert joined_ranks(environ) is None


def test_a_rank_that_is_no_number_is_told() -> None:
    with pytest.raises(UserError, match="RANK='x', which is not a number"):
        joined_ranks({"RANK": "x", "WORLD_SIZE": "1"})


def test_wrong_world_size() -> None:
    ranks = Ranks(rank=0, world_size=8, local_rank=0, init_method="env://", started_by="torchrun")
    with pytest.raises(UserError) as caught:
        check_world_size(LayoutConfig(tensor=2, data=2), ranks)
    assert str(caught.value) == "layout asks for 4 ranks = tensor 2 x pipeline 1 x data 2, torchrun started 8"


WORK = """
import sys
import torch, torch.distributed as dist
from pathlib import Path
from launchers.local import launch
from megatron_mplug2.config.load import load_config
from megatron_mplug2.errors import UserError

def work(config):
    total = torch.ones(1)
    dist.all_reduce(total)
    (config.run_dir / f"rank-{dist.get_rank()}").write_text(str(int(total)))

if __name__ == "__main__":
    try:
        launch(load_config(Path("configs/pretrain/demo.yaml"), sys.argv[1:]), work)
    except UserError as error:
        sys.exit(str(error))
"""


@pytest.mark.long
@pytest.mark.parametrize(("data", "joins"), [(2, True), (1, False)])
def test_real_torchrun(tmp_path: Path, data: int, joins: bool) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    overrides = [f"run_dir={tmp_path}", f"layout.data={data}"]
    done = subprocess.run([*command, *overrides], cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=300, check=False)
    said = {path.name: path.read_text() for path in tmp_path.glob("rank-*")}
    if joins:
        assert done.returncode == 0, done.stderr
        assert said == {"rank-0": "2", "rank-1": "2"}
    else:
        assert done.returncode != 0
        assert said == {}
        assert "layout asks for 1 rank = tensor 1 x pipeline 1 x data 1, torchrun started 2" in done.stderr
