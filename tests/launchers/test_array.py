"""A data stage as an array, and any command as a job: what is submitted, against golden files and under a real shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.array import Array, part_command
from launchers.batch_script import render
from launchers.cluster import Launcher, SlurmConfig, load_cluster
from launchers.launch_folder import Launch, finished
from launchers.launching import Plan
from launchers.tool_job import ToolPlan, home_of, plan_command
from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.observability.job_events import append_event, events_name, read_events
from tests.launchers.commands import event, read

GOLDEN = Path(__file__).parent / "golden"
PROJECT = Path(__file__).parents[2]
FINETUNING = PROJECT / "configs/finetune/msrvtt_qa.yaml"
SHARD = ("data", "shard", "listing", "it's $(touch obeyed)", "--out", "b")


def slurm() -> SlurmConfig:
    profile = load_cluster("slurm_8x8").slurm
    assert profile is not None
    return profile.model_copy(update={"python": "python3"})


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: write what `render` gives into the file, and read the difference."""
    monkeypatch.chdir("/tmp")
    planned = plan_command(read(SHARD), slurm(), array=Array(parts=8, at_once=4), home=Path("/shared/study/shards"))
    assert render(planned.spec(Path("/shared/study/shards/launches/0001"))) == (GOLDEN / "array.sh").read_text()


def test_a_part_is_put_in_by_the_shell_and_nothing_else_is(tmp_path: Path) -> None:
    program = f"{sys.executable}"
    shown = "import sys; print(sys.argv[1:])"
    command = part_command((program, "-c", shown, "data", "shard"), ("it's", "$(touch obeyed)", "$HOME", ""), Array(parts=8))
    environ = {**os.environ, "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{['data', 'shard', '--part', '3/8', chr(105) + 't' + chr(39) + 's', '$(touch obeyed)', '$HOME', '']}\n"
    assert list(tmp_path.iterdir()) == []


def test_one_process_has_a_task_s_share() -> None:
    """Of a profile of nodes with 8 GPUs each."""
    planned = plan_command(read(SHARD), slurm().model_copy(update={"memory_gb": 1000}))
    assert isinstance(planned, ToolPlan)
    script = render(planned.spec(Path("/launch")))
    assert "#SBATCH --mem=125G" in script and "#SBATCH --cpus-per-task=12" in script and "#SBATCH --nodes=1" in script
    assert "gpus" not in script and "array" not in script
    assert "--mem" not in render(plan_command(read(SHARD), slurm()).spec(Path("/launch"))), "all of a node cannot be divided"


def test_the_same_command_is_launched_from_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = read(SHARD), read([*SHARD[:-1], "c"])
    assert home_of(one) == home_of(read(SHARD)) != home_of(other)
    before = home_of(one)
    monkeypatch.chdir(tmp_path)
    assert home_of(one).name != before.name and home_of(one).parent == tmp_path / "runs/jobs"


@pytest.mark.parametrize(
    ("words", "nodes", "parts", "said"),
    [
        (("data", "tokenizer", "a", "--out", "b"), None, 2, "has no --part, and cannot be shared out"),
        (("pretrain", "configs/pretrain/demo.yaml"), None, 2, "has no --part, and cannot be shared out"),
        ((*SHARD, "--part=1/2"), None, 2, "every task of an array gets its own --part"),
        (SHARD, 2, None, "--nodes 2: `mplug2 data shard listing"),
    ],
)
def test_what_does_not_fit(words: tuple[str, ...], nodes: int | None, parts: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_command(read(words), slurm(), nodes=nodes, array=None if parts is None else Array(parts=parts))


def test_ranks_are_planned_from_their_config() -> None:
    planned = plan_command(read(["pretrain", str(PROJECT / "configs/pretrain/large.yaml"), "name=mine"]), slurm(), nodes=8)
    assert isinstance(planned, Plan)
    assert (planned.shape.nodes, planned.run.name, planned.home) == (8, "mine", (Path.cwd() / "runs/large").resolve())


@pytest.mark.parametrize("launcher", Launcher)
def test_answers_to_choose_among_go_with_an_evaluation(launcher: Launcher) -> None:
    words = ["evaluate", f"--answers={SHARD[3]}", str(FINETUNING), "training.seed=3"]
    planned = plan_command(read(words), slurm().model_copy(update={"launcher": launcher}))
    assert planned.spec(Path("/launch")).command[-3:] == ("evaluate", "/launch/config.yaml", f"--answers={SHARD[3]}")
    assert planned.command == tuple(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pretrain", str(FINETUNING)), "downstream.family=video_qa is finetuned: launch `finetune"),
        (("finetune", str(PROJECT / "configs/pretrain/large.yaml")), "downstream.family is missing"),
    ],
)
def test_another_command_s_config_is_told_before_a_job_waits(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_command(read(words), slurm())


def test_an_array_is_finished_when_all_its_parts_are(tmp_path: Path) -> None:
    launched = Launch(command=SHARD, commit=None, changed=False, nodes=1, tasks_per_node=1, parts=2)
    append_event(tmp_path, event("end", code=0))
    (tmp_path / events_name(None)).rename(tmp_path / events_name(1))
    assert not finished(tmp_path, launched)
    for code in (ExitCode.FAILED, ExitCode.FINISHED):
        append_event(tmp_path, event("end", code=code))
    (tmp_path / events_name(None)).rename(tmp_path / events_name(2))
    assert finished(tmp_path, launched) and len(read_events(tmp_path)) == 3
    with (tmp_path / events_name(1)).open("a") as file:
        file.write(event("start").model_dump_json() + "\n")
    assert not finished(tmp_path, launched), "it was started again"
