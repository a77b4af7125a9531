"""A launch once more on other nodes, from where a study keeps it; SLURM's programs are stand-ins. Real jobs: test_slurm_survival.py."""

import os
from pathlib import Path

import pytest

from launchers.cluster import ContainerConfig, Device, SlurmConfig
from launchers.launch_folder import SCRIPT, read_launch
from launchers.launching import launch, resume
from launchers.relaunching import relaunch
from launchers.tool_job import plan_command
from megatron_mplug2.errors import UserError
from tests.launchers.commands import read

FINETUNING = Path(__file__).parents[2] / "configs/finetune/demo_qa.yaml"
SLURM = SlurmConfig(
    max_nodes=2, tasks_per_node=2, device=Device.CPU, cpus_per_task=1, time_limit_min=5, container=ContainerConfig(image="image")
)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What squeue prints; sbatch takes every job, as number 7."""
    programs, queue = tmp_path / "bin", tmp_path / "queue"
    programs.mkdir()
    queue.touch()
    for name, body in (("sbatch", "echo 7"), ("squeue", f"cat {queue}")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return queue


def test_a_step_of_a_study_on_other_nodes(queue: Path, tmp_path: Path) -> None:
    """It keeps its list of answers and its code, sees its run's folder inside a container, and waits for who else uses that."""
    home, run_dir = tmp_path / "study/evaluate", tmp_path / "run"
    words = ["evaluate", str(FINETUNING), f"run_dir={run_dir}", "--answers", "two words.txt"]
    first, _ = launch(plan_command(read(words), SLURM, home=home))
    again = relaunch(home, 2)
    assert again.folder.name == "0002" and again.changes == ("layout.data=4", "training.microbatch=8")
    before, after = (read_launch(folder) for folder in (first, again.folder))
    assert (before.nodes, after.nodes, after.command, after.run_dir) == (1, 2, tuple(words), run_dir)
    script = (again.folder / SCRIPT).read_text()
    assert f"evaluate {again.folder}/config.yaml '--answers=two words.txt'" in script
    assert f"--container-mounts={tmp_path}:{tmp_path},{run_dir}:{run_dir},{again.folder}:{again.folder}" in script
    other, _ = launch(plan_command(read(words[:-2]), SLURM))
    queue.write_text(f"8|PENDING|Priority||{other / SCRIPT}\n")
    for start in (lambda: relaunch(home, 1), lambda: resume(home)):
        with pytest.raises(UserError, match=rf"job 8 \(PENDING\) is using {run_dir}"):
            start()
    assert not (home / "launches/0003").exists()
