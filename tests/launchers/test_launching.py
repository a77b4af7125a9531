"""From a config and a cluster to a job's shape, and what of a launch needs no SLURM."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.cluster import Device, SlurmConfig
from launchers.launch_folder import CODE, Launch, launch_folders, locked, new_folder, read_launch, write_launch
from launchers.launchable import Shape
from launchers.launching import Request, Work, plan
from launchers.snapshot import DIFF, GitState, git_state, take_snapshot
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import read_events

PROJECT = Path(__file__).parents[2]
LARGE = PROJECT / "configs/pretrain/large.yaml"
SLURM = SlurmConfig(max_nodes=8, tasks_per_node=8, device=Device.GPU, cpus_per_task=4, time_limit_min=60)


def shape(nodes: int | None, *overrides: str) -> Shape:
    return plan(Request(work=Work.PRETRAIN, config=LARGE, overrides=overrides, nodes=nodes), SLURM).shape


def test_the_layout_asks_for_nodes() -> None:
    assert shape(None) == Shape(nodes=4, tasks_per_node=8)
    assert shape(None, "layout.data=2") == Shape(nodes=1, tasks_per_node=4)


def test_nodes_set_the_layout() -> None:
    planned = plan(Request(work=Work.PRETRAIN, config=LARGE, nodes=8), SLURM)
    assert (planned.shape, planned.run.layout.data) == (Shape(nodes=8, tasks_per_node=8), 32)


@pytest.mark.parametrize(
    ("nodes", "overrides", "said"),
    [
        (None, ["layout.data=6", "training.global_batch=960"], "layout asks for 12 ranks, which do not fill nodes of 8"),
        (16, [], "128 ranks on 16 nodes are more than the cluster's 8 nodes"),
        (None, ["layout.data=64", "training.microbatch=16"], "128 ranks on 16 nodes are more than the cluster's 8 nodes"),
        (1, ["layout.tensor=3"], "layout.tensor=3"),
        (None, ['run_dir="runs/a\\nb"'], "whose name has a line break"),
    ],
)
def test_what_does_not_fit(nodes: int | None, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        shape(nodes, *overrides)


def mplug2(folder: Path, *arguments: str, path: str = os.environ["PATH"]) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": path}
    program = "import atexit, sys; from megatron_mplug2 import cli; atexit.register(lambda: print('#', 'torch' in sys.modules)); cli.main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_a_dry_run_prints_the_script_and_writes_nothing(tmp_path: Path) -> None:
    """Where there is no SLURM; without importing torch, which takes seconds."""
    done = mplug2(tmp_path, "launch", str(LARGE), "--cluster", "slurm_8x8", "--dry-run", "--exclude", "node3", path="/usr/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    *script, imported = done.stdout.splitlines()
    assert script[0] == "#!/bin/bash" and script[-1] == "esac" and imported == "# False"
    assert {"#SBATCH --nodes=4", "#SBATCH --gpus-per-node=8", "#SBATCH --exclude=node3"} <= set(script)
    assert list(tmp_path.iterdir()) == []


def test_without_slurm_a_launch_says_so_and_leaves_nothing_to_clean(tmp_path: Path) -> None:
    done = mplug2(tmp_path, "launch", str(LARGE), "--cluster", "slurm_8x8", path="/usr/nowhere")
    assert done.returncode == 2
    assert done.stderr == (
        "error: squeue is not on this machine: use a login node of the cluster (mplug2 launch --dry-run works anywhere)\n"
    )
    assert launch_folders(tmp_path / "runs/large") == []


def test_a_local_cluster_runs_the_same_command_here(tmp_path: Path) -> None:
    done = mplug2(tmp_path, "launch", str(LARGE), "training.sed=3", "--cluster", "local_cpu")
    assert (done.returncode, done.stderr) == (2, f"error: {LARGE}: training.sed: unknown key; did you mean training.seed?\n")
    printed = mplug2(tmp_path, "launch", str(LARGE), "training.seed=3", "--cluster", "local_cpu", "--dry-run").stdout
    assert printed.splitlines()[0].endswith(f"-m megatron_mplug2.cli pretrain {LARGE} training.seed=3")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("evalute", "error: launch evalute: neither a config, such as run.yaml, nor a command; did you mean evaluate?\n"),
        ("nowhere.yaml", "nowhere.yaml: cannot read the config file: No such file or directory\n"),
    ],
)
def test_a_command_of_no_such_name_is_taken_for_no_config(tmp_path: Path, word: str, said: str) -> None:
    done = mplug2(tmp_path, "launch", word, "run.yaml", "--cluster", "slurm_8x8", "--dry-run")
    assert done.returncode == 2 and done.stderr.endswith(said) and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize("option", [("--nodes", "2"), ("--exclude", "node2")])
def test_what_this_machine_cannot_do_is_told(tmp_path: Path, option: tuple[str, str]) -> None:
    done = mplug2(tmp_path, "launch", str(LARGE), *option, "--cluster", "local_cpu", "--dry-run")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {option[0]} {option[1]}: this machine is "), done


def test_a_snapshot_runs_by_itself(tmp_path: Path) -> None:
    take_snapshot(tmp_path, GitState(commit="c", diff="changed"))
    program = "import megatron_mplug2.cli, launchers, data_tools; print(megatron_mplug2.__file__, launchers.__file__, data_tools.__file__)"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / CODE), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert all(file.startswith(str(tmp_path / CODE)) for file in done.stdout.split()), done.stdout
    assert (tmp_path / DIFF).read_text() == "changed"


def test_git_knows_the_commit() -> None:
    if not (PROJECT / ".git").exists():
        pytest.skip("not a checkout")
    assert re.fullmatch("[0-9a-f]{40}", git_state().commit or "")


def test_launches_are_numbered_and_found_when_whole(tmp_path: Path) -> None:
    launched = Launch(command=("pretrain", "a.yaml"), commit=None, changed=False, nodes=1, tasks_per_node=2)
    with locked(tmp_path) as launches:
        first, second, _ = (new_folder(launches) for _ in range(3))
    write_launch(first, launched)
    write_launch(second, launched)
    assert [folder.name for folder in launch_folders(tmp_path)] == ["0001", "0002"]
    assert read_launch(second) == launched
    (second / "launch.json").write_text("{")
    with pytest.raises(UserError, match=r"0002/launch\.json cannot be read"):
        read_launch(second)


def test_half_a_line_of_events_is_passed_over(tmp_path: Path) -> None:
    whole = '{"at": 1, "job": 7, "restarts": 0, "nodes": "n", "event": "start", "code": null, "next": "run"}'
    (tmp_path / "events.jsonl").write_text(f"{whole}\n{whole[:30]}\n{whole}\n")
    assert [event.job for event in read_events(tmp_path)] == [7, 7]


HOLDER = """
import sys
from pathlib import Path
from launchers.launch_folder import locked
with locked(Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def test_two_commands_do_not_launch_at_once(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UserError, match="another command is launching"), locked(tmp_path):
            pass
        holder.communicate("\n", timeout=60)
    with locked(tmp_path):
        pass


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """As a bound on the size of files has it too, in the middle of the snapshot."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "squeue").write_text("#!/bin/sh\n")
    (programs / "squeue").chmod(0o755)
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({2**12}, {2**12})); from megatron_mplug2 import cli; cli.main()"
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": f"{programs}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", program, "launch", str(LARGE), "--cluster", "slurm_8x8"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: cannot write the launch into {tmp_path}/runs/large/launches/0001: ")
    assert "File too large" in done.stderr and "that has room" in done.stderr and len(done.stderr) < 1000
    assert [path.name for path in (tmp_path / "runs/large/launches").iterdir()] == [".lock"]
