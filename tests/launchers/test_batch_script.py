"""The batch script as text, against golden files, and its hostile parts under a real shell. No SLURM is needed."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from launchers import health
from launchers.batch_script import JobSpec, render
from launchers.cluster import ContainerConfig, Device, SlurmConfig, load_cluster
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import read_events

GOLDEN = Path(__file__).parent / "golden"
PLAIN = SlurmConfig(max_nodes=1, tasks_per_node=2, device=Device.CPU, cpus_per_task=4, time_limit_min=60)
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


def spec(nodes: int, slurm: SlurmConfig, folder: Path = Path("/shared/runs/large/launches/0001")) -> JobSpec:
    return JobSpec(
        name="large",
        command=("python3", "-m", "megatron_mplug2.cli", "pretrain", f"{folder}/config.yaml"),
        python="python3",
        folder=folder,
        work_dir=Path("/shared/project"),
        run_dir=Path("/shared/runs/large"),
        nodes=nodes,
        tasks_per_node=slurm.tasks_per_node,
        slurm=slurm,
        check=health.command("python3", folder, slurm),
    )


@pytest.mark.parametrize(("nodes", "slurm"), [(1, PLAIN), (8, load_cluster("slurm_8x8").slurm), (64, LARGE)])
def test_golden(nodes: int, slurm: SlurmConfig) -> None:
    """After a change that is meant: write what `render` gives into the files, and read the difference."""
    assert render(spec(nodes, slurm)) == (GOLDEN / f"{nodes}-nodes.sh").read_text()


STAND_INS = {
    "srun": """case "$*" in *launchers.health*) cat health.said; exit ;; esac
printf "%s\\n" "$@" > srun.args; echo "$TOLD" > srun.env; {said} exit {code}""",
    "scontrol": """case "$1 $2" in
  "show hostnames") printf 'node1\\nnode2\\n' ;;
  "show job") cat preempted 2> /dev/null; echo "   ReqNodeList=(null) ExcNodeList=$(cat excluded 2> /dev/null || echo '(null)')" ;;
  *) echo "$@" >> scontrol.args ;;
esac""",
    "squeue": "echo {state}",
}


WELL = "".join(f"mplug2-health well node{node} \n" for node in (1, 1, 2, 2))


def run(
    folder: Path,
    slurm: SlurmConfig,
    *,
    code: int,
    said: str = "",
    state: str = "RUNNING",
    restarts: int = 0,
    nodes: str = WELL,
    most_bytes: int = resource.RLIM_INFINITY,
) -> int:
    """The script, in `folder`, with programs in the place of SLURM's. `nodes`: what they say of their health. `most_bytes`: that a file may
    have."""
    (folder / "health.said").write_text(nodes)
    said = said or ("" if code else "echo 0 > $MPLUG2_EXIT_NOTES/0;")  # as every rank that ends well
    programs = folder / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(
            "#!/bin/sh\n" + body.replace("{code}", str(code)).replace("{said}", said).replace("{state}", state) + "\n"
        )
        (programs / name).chmod(0o755)
    (folder / "job.sh").write_text(render(spec(2, slurm, folder)))
    environ = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"}
    environ |= {"SLURM_RESTART_COUNT": str(restarts), "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "node1"}
    done = subprocess.run(
        ["bash", "job.sh"],
        cwd=folder,
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
        restore_signals=False,  # a file that grows too large is an error, and no signal
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    return done.returncode


@pytest.mark.parametrize(
    ("code", "said", "left", "requeued"),
    [
        (0, "", 0, False),
        (137, "", 137, True),
        (1, "echo 1 > $MPLUG2_EXIT_NOTES/0;", 1, True),
        (137, "echo 85 > $MPLUG2_EXIT_NOTES/1;", 85, True),
        (137, "echo 2 > $MPLUG2_EXIT_NOTES/3; echo 1 > $MPLUG2_EXIT_NOTES/0;", 2, False),
        (143, "echo 65 > $MPLUG2_EXIT_NOTES/1;", 65, False),
        (143, "echo 1 > $MPLUG2_EXIT_NOTES/0; echo 75 > $MPLUG2_EXIT_NOTES/1;", 75, True),
        (143, "echo 1 > $MPLUG2_EXIT_NOTES/0;", 1, True),
    ],
)
def test_what_is_requeued(tmp_path: Path, code: int, said: str, left: int, requeued: bool) -> None:
    assert run(tmp_path, PLAIN, code=code, said=said) == left
    assert (tmp_path / "scontrol.args").exists() == requeued


@pytest.mark.parametrize(
    ("state", "restarts", "then"),
    [("RUNNING", 19, "requeue"), ("RUNNING", 20, "limit"), ("CANCELLED", 0, "taken"), ("COMPLETING", 20, "taken")],
)
def test_when_it_is_not(tmp_path: Path, state: str, restarts: int, then: str) -> None:
    run(tmp_path, PLAIN, code=1, state=state, restarts=restarts)
    assert last_event(tmp_path) == (1, then, "")
    assert (tmp_path / "scontrol.args").exists() == (then == "requeue")


def last_event(folder: Path) -> tuple[int | None, str, str]:
    event = read_events(folder)[-1]
    assert event.event == "end"
    return event.code, event.next, event.why


@pytest.mark.parametrize(("preempted", "then"), [("None", "end"), ("2026-11-28T07:08:28", "requeue")])
def test_what_begins_anew_is_requeued_after_a_preemption_alone(tmp_path: Path, preempted: str, then: str) -> None:
    """Its time limit would come again."""
    (tmp_path / "preempted").write_text(f"   PreemptEligibleTime=2026-11-28T07:00:00 PreemptTime={preempted}\n")
    assert run(tmp_path, PLAIN, code=143, said="echo 86 > $MPLUG2_EXIT_NOTES/0;") == ExitCode.CUT_SHORT
    assert last_event(tmp_path) == (ExitCode.CUT_SHORT, then, "")
    assert (tmp_path / "scontrol.args").exists() == (then == "requeue")


def test_the_first_reason_that_a_rank_gave_is_told(tmp_path: Path) -> None:
    """As the rank escaped it; not that of a rank which fails because of it, and has a smaller number."""
    (tmp_path / "first").write_text('1\nwhy: no \\"vocab\\"\n')
    (tmp_path / "later").write_text("1\nwhy: peer gone\n")
    said = "cp first $MPLUG2_EXIT_NOTES/3; sleep 0.05; cp later $MPLUG2_EXIT_NOTES/0;"
    run(tmp_path, PLAIN, code=143, said=said)
    assert last_event(tmp_path) == (ExitCode.FAILED, "requeue", 'no "vocab"'), (tmp_path / "events.jsonl").read_text()


KILLED = "srun: error: node2: task 1: Killed\\nsrun: error: node1: task 0: Terminated\\n"


@pytest.mark.parametrize(
    ("srun", "note", "end"),
    [
        (KILLED, "", (143, "requeue", "node2: task 1: Killed (out of memory?)")),
        (KILLED, "1\\nwhy: peer gone\\n", (1, "requeue", "node2: task 1: Killed (out of memory?)")),
        (KILLED, "85\\n", (85, "requeue", "")),
        ("srun: error: node1: tasks 0-1: Exited with exit code 1\\n", "1\\nwhy: no luck\\n", (1, "requeue", "no luck")),
        ("srun: error: node1: tasks 0-1: Exited with exit code 7\\n", "", (143, "requeue", "node1: tasks 0-1: Exited with exit code 7")),
        ("srun: error: node1: tasks 0-1: Terminated\\n", "", (143, "requeue", "")),
        ('srun: error: Cannot "create" a step\\n', "", (143, "requeue", "Cannot create a step")),
        ('srun: error: Cannot "create" a step\\n', "1\\nwhy: no luck\\n", (1, "requeue", "no luck")),
    ],
    ids=[
        "killed",
        "others notice it",
        "others have saved",
        "it says why",
        "it says nothing",
        "SLURM ends it",
        "nobody begins",
        "srun complains",
    ],
)
def test_of_a_rank_that_died_srun_tells(tmp_path: Path, srun: str, note: str, end: tuple[int, str, str]) -> None:
    noted = f"printf '{note}' > $MPLUG2_EXIT_NOTES/0;" if note else ""
    run(tmp_path, PLAIN, code=143, said=f"printf '{srun}' >&2; {noted}")
    assert last_event(tmp_path) == end, (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize(("tasks", "end"), [("1 3", (127, "requeue", "gone")), ("0 1 2 3", (ExitCode.MISTAKE, "end", "gone"))])
def test_an_interpreter_that_is_on_no_node_is_a_mistake(tmp_path: Path, tasks: str, end: tuple[int, str, str]) -> None:
    run(tmp_path, PLAIN, code=143, said=f"for task in {tasks}; do printf '127\\nwhy: gone\\n' > $MPLUG2_EXIT_NOTES/$task; done;")
    assert last_event(tmp_path) == end


@pytest.mark.parametrize(
    ("said", "state", "end"),
    [
        (":;", "COMPLETING", (143, "taken", "")),
        (":;", "$(if [ -e asked ]; then echo COMPLETING; fi; touch asked)", (143, "taken", "")),
        ("echo 0 > $MPLUG2_EXIT_NOTES/0;", "COMPLETING", (0, "end", "")),
        ("echo 0 > $MPLUG2_EXIT_NOTES/0; echo 85 > $MPLUG2_EXIT_NOTES/1;", "COMPLETING", (85, "taken", "")),
    ],
)
def test_srun_s_good_word_is_not_enough(tmp_path: Path, said: str, state: str, end: tuple[int, str, str]) -> None:
    """It ends with 0 where a node was lost."""
    run(tmp_path, PLAIN, code=0, said=said, state=state)
    assert last_event(tmp_path) == end


def test_a_job_that_slurm_ends_tells_of_it(tmp_path: Path) -> None:
    """SIGTERM comes to the script as well as to the ranks, which save."""
    run(tmp_path, PLAIN, code=143, said="kill -TERM $PPID; echo 85 > $MPLUG2_EXIT_NOTES/0;", state="COMPLETING")
    assert last_event(tmp_path) == (ExitCode.STOPPED, "taken", "")


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


def mark(*lines: str) -> str:
    return "a library's line\n" + "".join(f"mplug2-health {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("nodes", "bad", "said"),
    [
        (mark("well node1", "ill node2 it has no GPU", "misses node1 not there"), "node2", "it has no GPU"),
        (mark("misses node2 not there", "misses node2 not there", "misses node1 no way"), "node2", "not there"),
        (mark("misses node2 not there", "misses node1 no way"), None, "not there"),
        (mark("vain node1 nccl cannot sum", "well node2 "), None, "nccl cannot sum"),
        ("", None, "no node has answered"),
    ],
    ids=["it says so itself", "most miss it", "each the other", "all together", "silence"],
)
def test_a_bad_node_is_left_out_of_the_next_start(tmp_path: Path, nodes: str, bad: str | None, said: str) -> None:
    (tmp_path / "excluded").write_text("node9")
    assert run(tmp_path, PLAIN, code=0, nodes=nodes) == ExitCode.BAD_NODE
    assert not (tmp_path / "srun.args").exists(), "the ranks are not started"
    told = (tmp_path / "scontrol.args").read_text().splitlines()
    assert told == ["requeue 7", *([f"update JobId=7 ExcNodeList=node9,{bad}"] if bad else [])]
    health, end = read_events(tmp_path)[-2:]
    assert (health.event, health.next, health.why) == ("unhealthy", "exclude" if bad else "requeue", said)
    assert bad is None or health.nodes == bad
    assert (end.event, end.code, end.next) == ("end", ExitCode.BAD_NODE, "requeue")


def test_a_check_that_fails_on_every_node_would_fail_again(tmp_path: Path) -> None:
    assert run(tmp_path, PLAIN, code=0, nodes=mark("ill node1 no room", "ill node2 no room")) == ExitCode.BAD_NODE
    assert not (tmp_path / "scontrol.args").exists()
    assert [(event.event, event.next) for event in read_events(tmp_path)[-2:]] == [("unhealthy", "end"), ("end", "end")]


def test_bad_nodes_come_to_an_end_too(tmp_path: Path) -> None:
    run(tmp_path, PLAIN, code=0, nodes=mark("ill node2 no room"), restarts=20)
    assert not (tmp_path / "scontrol.args").exists() and read_events(tmp_path)[-1].next == "limit"


def test_a_profile_may_want_no_check(tmp_path: Path) -> None:
    assert run(tmp_path, PLAIN.model_copy(update={"health": None}), code=0, nodes="") == 0
    assert (tmp_path / "srun.args").exists()


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
