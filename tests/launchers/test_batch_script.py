"""The batch script as text, against golden files, and its hostile parts under a real shell. No SLURM is needed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from launchers.batch_script import render
from launchers.cluster import ContainerConfig, Device, SlurmConfig, load_cluster
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import read_events
from tests.launchers.batch_jobs import PLAIN, run, spec

GOLDEN = Path(__file__).parent / "golden"
LARGE = SlurmConfig(
    max_nodes=64,
    tasks_per_node=8,
    device=Device.GPU,
    cpus_per_task=16,
    time_limit_min=2880,
    memory_gb=1024,
    partition="h100",
    account="vision",
    qos="long",
    constraint="ib&nvme",
    exclude=("node017", "node[101-104]"),
    signal_lead_s=300,
    requeue_limit=100,
    setup=("module load enroot", 'ulimit -n "$(ulimit -H -n)"'),
    environment={"NCCL_SOCKET_IFNAME": "ib0", "NCCL_IB_TIMEOUT": 22},
    container=ContainerConfig(image="registry.example/mplug2:1.0", mounts=("/data:/data:ro",)),
)


@pytest.mark.parametrize(("nodes", "slurm"), [(1, PLAIN), (8, load_cluster("slurm_8x8").slurm), (64, LARGE)])
def test_golden(nodes: int, slurm: SlurmConfig) -> None:
    """After a change that is meant: write what `render` gives into the files, and read the difference."""
    assert render(spec(nodes, slurm)) == (GOLDEN / f"{nodes}-nodes.sh").read_text()


def test_what_a_person_named_is_never_interpreted(tmp_path: Path) -> None:
    hostile = "a 'b' \"c\" $(touch obeyed) `touch obeyed` ; touch obeyed"
    folder = tmp_path / hostile
    folder.mkdir()
    container = ContainerConfig(image=hostile)
    slurm = PLAIN.model_copy(update={"environment": {"TOLD": hostile}, "partition": hostile, "container": container})
    assert run(folder, slurm, code=0) == 0
    assert not list(tmp_path.rglob("obeyed"))
    arguments = (folder / "srun.args").read_text().splitlines()
    assert f"--container-image={hostile}" in arguments and arguments[-1] == f"{folder}/config.yaml"
    assert (folder / "srun.env").read_text() == f"{hostile}\n"


def test_a_set_up_that_fails_ends_the_job(tmp_path: Path) -> None:
    assert run(tmp_path, PLAIN.model_copy(update={"setup": ("false",)}), code=0) == 1
    assert not (tmp_path / "srun.args").exists() and not (tmp_path / "scontrol.args").exists()
    assert '"event": "end", "code": 1, "next": "end"' in (tmp_path / "events.jsonl").read_text()


def test_without_scontrol_nothing_is_begun(tmp_path: Path) -> None:
    """The script itself runs in a container that has none."""
    (tmp_path / "job.sh").write_text(render(spec(2, PLAIN, tmp_path)))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("mkdir", "date"):
        (programs / name).symlink_to(str(shutil.which(name)))
    environ = {"PATH": str(programs), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURMD_NODENAME": "node1"}
    bash = [str(shutil.which("bash")), "job.sh"]
    done = subprocess.run(bash, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.MISTAKE, "")
    assert done.stderr.startswith("error: no scontrol on node1, by which") and done.stderr.count("\n") == 1
    assert [(event.event, event.code) for event in read_events(tmp_path)] == [("start", None), ("end", ExitCode.MISTAKE)]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """As a bound on the size of files has it too. Before the ranks start, who could not tell what they exit with."""
    assert run(tmp_path, PLAIN, code=0, most_bytes=2**15) == ExitCode.MISTAKE
    assert not (tmp_path / "srun.args").exists() and not (tmp_path / "scontrol.args").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "exits").write_text("no folder")
    assert run(tmp_path, PLAIN, code=0) == ExitCode.MISTAKE
    assert not (tmp_path / "srun.args").exists() and not (tmp_path / "scontrol.args").exists()
