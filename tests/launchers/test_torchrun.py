"""torchrun as what starts ranks: the job's script. Real agents run in test_slurm_study.py."""

from pathlib import Path

import pytest

from launchers.batch_script import render
from launchers.cluster import Launcher, load_cluster
from launchers.launching import Request, Work, plan

GOLDEN = Path(__file__).parent / "golden"
PROJECT = Path(__file__).parents[2]


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: write what `render` gives into the file, and read the difference."""
    monkeypatch.chdir("/tmp")
    slurm = load_cluster("slurm_8x8").slurm
    assert slurm is not None
    slurm = slurm.model_copy(update={"launcher": Launcher.TORCHRUN, "python": "python3"})
    request = Request(work=Work.PRETRAIN, config=PROJECT / "configs/pretrain/large.yaml", overrides=("run_dir=/shared/runs/large",))
    script = render(plan(request, slurm).spec(Path("/shared/runs/large/launches/0001")))
    assert script == (GOLDEN / "torchrun.sh").read_text()
