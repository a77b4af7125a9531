"""What is told of jobs that have left the queue, from whatever still knows them: the controller, accounting, the job's script."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launchers import queue
from launchers.jobs import described, log_path, silence, status_of, told
from launchers.launch_folder import Launch, new_folder, read_launch, write_launch
from launchers.queue import QueuedJob
from launchers.summaries import summary_of
from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.launch_commands import app as jobs
from megatron_mplug2.observability.job_events import EVENTS, Event, append_event, events_name

FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one launch, job 7, which was requeued and then failed."""
    launches = tmp_path / "run" / "launches"
    launches.mkdir(parents=True)
    folder = new_folder(launches)
    write_launch(folder, Launch(command=("pretrain", "a.yaml"), commit=None, changed=False, nodes=2, tasks_per_node=2, jobs=("7",)))
    start = {"at": 1, "job": 7, "nodes": "node[1-2]", "code": None, "next": "run", "event": "start"}
    lines = [
        {**start, "restarts": 0},
        {**start, "restarts": 0, "event": "end", "code": 137, "next": "requeue"},
        {**start, "restarts": 1},
        {**start, "restarts": 1, "event": "end", "code": 65, "next": "end"},
    ]
    (folder / EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """In the place of SLURM's, whose accounting would need a database."""
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("scontrol", "sacct", "state"),
    [
        ("echo 'JobId=7 JobName=a JobState=TIMEOUT Reason=TimeLimit'", NO_ACCOUNTING, "TIMEOUT"),
        (FORGOTTEN, "printf 'JobID|State|NodeList\\n7|CANCELLED by 0|node1\\n7.batch|FAILED|node1\\n'", "CANCELLED"),
        (FORGOTTEN, "echo 'JobID|State|NodeList'", "FAILED"),
        (FORGOTTEN, NO_ACCOUNTING, "FAILED"),
    ],
    ids=["the controller", "accounting", "accounting that lacks it", "the job's script"],
)
def test_who_knows_how_it_ended(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], scontrol: str, sacct: str, state: str
) -> None:
    programs(tmp_path, monkeypatch, scontrol=scontrol, sacct=sacct)
    found = status_of(run, [])
    assert (found.job, found.state, found.queued, found.steps) == ("7", state, False, 0)
    assert [described(event) for event in found.events] == [
        "job 7 start 0 on node[1-2]",
        "job 7 start 0 ended with 137 (signal 9), requeued",
        "job 7 start 1 on node[1-2]",
        "job 7 start 1 ended with 65 (broken data), not requeued",
    ]
    assert capfd.readouterr().err == ""


def test_a_queued_job_is_known_by_its_script(run: Path) -> None:
    """Even where its number was lost: the launch was cut off while SLURM took it."""
    script = run / "launches/0001/job.sh"
    queued = [
        QueuedJob(job=number, state="PENDING", reason="Priority", nodes="", script=path)
        for number, path in (("8", Path("/b")), ("9", script))
    ]
    found = status_of(run, queued)
    assert (found.job, found.state, found.where, found.queued) == ("9", "PENDING", "Priority", True)


@pytest.mark.parametrize("part", [None, 1])
def test_a_job_is_submitted_before_it_begins(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int | None) -> None:
    """Though the launch told of it later, in the same second."""
    folder = run / "launches/0001"
    events = [Event(at=2, job=7, restarts=0, event=what, code=code) for what, code in (("start", None), ("end", 1), ("submit", None))]
    (folder / EVENTS).write_text("")
    for event, name in zip(events, (events_name(part), events_name(part), EVENTS), strict=True):
        with (folder / name).open("a") as file:
            file.write(event.model_dump_json() + "\n")
    programs(tmp_path, monkeypatch, scontrol="echo JobState=FAILED")
    found = status_of(run, [])
    assert [event.event for event in found.events] == ["submit", "start", "end"] and silence(found) is None


def test_a_job_that_waits_in_vain_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = run / "launches/0001/job.sh"
    script.touch()
    vain = ["job 7 waits in vain unless something changes: the partition gives a job less time"]
    for reason, said in (("PartitionTimeLimit", vain), ("Resources", [])):
        programs(tmp_path, monkeypatch, squeue=f"echo '7|PENDING|{reason}||{script}'")
        lines = mplug2("status", run).splitlines()
        assert lines[0] == f"job: 7  PENDING  {reason}"
        assert [line.partition(": lower")[0] for line in lines[8:]] == said, lines


@pytest.mark.parametrize("steps", [0, 3])
def test_a_cancelled_job_is_promised_no_checkpoint(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """There may be none before the first save, and one more after its end."""
    script = run / "launches/0001/job.sh"
    script.touch()
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(steps)))
    programs(tmp_path, monkeypatch, squeue=f"echo '7|RUNNING|None|node1|{script}'", scancel=":")
    assert mplug2("cancel", run) == f"job 7 is cancelled; `mplug2 jobs resume {run}` goes on from what was saved, if anything\n"


def test_a_job_that_could_not_write_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run / "launches/0001"
    programs(tmp_path, monkeypatch, scontrol="echo JobState=FAILED")
    assert silence(status_of(run, [])) is None
    append_event(folder, Event(at=9, job=8, restarts=0, event="submit"))
    assert silence(status_of(run, [])) == f"job 7 wrote nothing: {folder}/logs is not there or full, or its nodes cannot write into it"
    programs(tmp_path, monkeypatch, scontrol="echo JobState=CANCELLED")
    assert silence(status_of(run, [])) is None


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("exclude", "node2 left out of the next start: it has no GPU"),
        ("requeue", "no node surely to blame: it has no GPU"),
        ("end", "on every node: it has no GPU"),
    ],
)
def test_a_health_check_has_words(then: str, said: str) -> None:
    event = Event(at=1, job=7, restarts=2, event="unhealthy", nodes="node2", next=then, why="it has no GPU")
    assert described(event) == f"job 7 start 2 failed its health check, {said}"


def test_what_is_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no launches"):
        status_of(tmp_path, [])
    with pytest.raises(UserError, match=r"0001/logs/7_5\.log is not there"):
        log_path(run, "5")


def mplug2(*words: object) -> str:
    """What the command says, its mistake or its lines."""
    done = CliRunner().invoke(jobs, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, UserError), done.exception
    return str(done.exception or done.stdout)


def test_the_folder_is_looked_at_before_slurm_is_asked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose controller is away here."""
    programs(tmp_path, monkeypatch, squeue="echo 'Unable to contact slurm controller' >&2; exit 1", scontrol=FORGOTTEN, sacct=NO_ACCOUNTING)
    assert mplug2("status", tmp_path / "nope").startswith(f"{tmp_path / 'nope'} has no launches")
    assert mplug2("list", tmp_path / "nope").startswith("no launched runs in")
    here = tmp_path / "runs/here"
    here.mkdir(parents=True)
    (here / "history.jsonl").touch()
    for command in ("status", "logs", "cancel", "resume"):
        assert mplug2(command, here) == f"{here} ran here, not as a job: see `mplug2 jobs summary {here}`"
    assert mplug2("list", here.parent).endswith(f"ran here, not as a job: see `mplug2 jobs summary {here.parent}`")
    assert "FAILED" in mplug2("status", run), "a study's step that ran here"
    (run / "launches/0001/job.sh").touch()
    assert mplug2("status", run).startswith("squeue does not answer: Unable to contact")


def test_an_array_s_logs_and_end_are_those_of_its_parts(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts have numbers of their own, which its own is not among while it is one job for all that waits."""
    folder = run / "launches/0001"
    (folder / EVENTS).unlink()
    launched = Launch(command=("data", "shard"), commit=None, changed=False, nodes=1, tasks_per_node=1, parts=2, jobs=("7",))
    write_launch(folder, launched)
    append_event(folder, Event(at=1, job=7, restarts=0, event="submit"))
    for part in (1, 2):
        (folder / f"logs/7_{part}.log").touch()
        (folder / events_name(part)).write_text(Event(at=2, job=7 + part, restarts=0, event="end", code=0).model_dump_json() + "\n")
    assert log_path(run, "2").name == "7_2.log"
    with pytest.raises(UserError, match=r"7_0\.log is not there: name one of --rank 1, 2$"):
        log_path(run, "0")
    programs(tmp_path, monkeypatch, scontrol=FORGOTTEN, sacct=NO_ACCOUNTING)
    found = status_of(run, [])
    assert found.state == "COMPLETED"
    assert [described(event) for event in found.events[1:]] == [
        f"part {part} (job {7 + part}) start 0 ended with 0 (finished), not requeued" for part in (1, 2)
    ]
    (folder / events_name(1)).write_text(Event(at=2, job=8, restarts=0, event="end", code=1).model_dump_json() + "\n")
    assert status_of(run, []).state == "FAILED", "whichever part ended last"


def test_a_step_of_a_study_tells_of_its_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launches lie in the study's folder; an evaluation of the run is no start of it."""
    programs(tmp_path, monkeypatch, scontrol=FORGOTTEN, sacct=NO_ACCOUNTING)
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "metrics.jsonl").write_text('{"kind": "train", "step": 4}\n')
    (trained / "history.jsonl").write_text('{"event": "start", "at": 1, "step": 0}\n')
    launched = read_launch(run / "launches/0001")
    write_launch(run / "launches/0001", launched.model_copy(update={"run_dir": trained}))
    evaluation = new_folder(run / "launches")
    write_launch(evaluation, launched.model_copy(update={"run_dir": trained, "command": ("evaluate", "a.yaml")}))
    append_event(evaluation, Event(at=90, job=8, restarts=0, event="start"))
    assert status_of(run, []).steps == 5
    found = summary_of(run)
    assert found is not None and found.steps == 5
    assert [start.begin for start in found.account.starts] == [1, 1]


def test_a_step_that_ran_here_has_no_job(run: Path) -> None:
    launched = read_launch(run / "launches/0001")
    write_launch(run / "launches/0001", launched.model_copy(update={"jobs": ()}))
    assert status_of(run, []).state == "FAILED"
    append_event(run / "launches/0001", Event(at=2, job=0, restarts=0, event="start", nodes="here"))
    append_event(run / "launches/0001", Event(at=2, job=0, restarts=0, event="end", code=0))
    assert [described(event) for event in status_of(run, []).events[-2:]] == [
        "its run here on here",
        "its run here ended with 0 (finished)",
    ]
    assert (status_of(run, []).state, status_of(run, []).job) == ("COMPLETED", None)
    (run / "launches/0001" / EVENTS).unlink()
    assert status_of(run, []).state == "NOT SUBMITTED"


def test_every_exit_code_has_words() -> None:
    for code in ExitCode:
        event = Event(at=1, job=7, restarts=0, event="end", code=code, next="end")
        assert described(event).startswith(f"job 7 start 0 ended with {code.value} ({code.name.lower().replace('_', ' ')})")


def test_what_sbatch_says_while_it_waits_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the queue is full."""
    programs(tmp_path, monkeypatch, sbatch="echo 'sbatch: temporarily unable to accept job' >&2; exec sleep 60")
    monkeypatch.setattr(queue, "PATIENCE_S", 2)
    with pytest.raises(UserError, match=r"^sbatch has not answered for 2 s \(sbatch: temporarily unable to accept job\): try again"):
        queue.submit(tmp_path / "job.sh", after=())


def test_a_start_that_told_of_no_end_is_named() -> None:
    """The node that ran the job's script was lost with it. Not the last one, which goes on; nor parts of an array beside one another."""
    events = [Event(at=at, job=7, restarts=at, event="start", nodes="n") for at in (0, 1)]
    lines = [line.split("  ", 1)[1] for line in told(events)]
    gone = "job 7 start 0 has told of no end: its node was lost, or SLURM ended it"
    assert lines == ["job 7 start 0 on n", gone, "job 7 start 1 on n"]
    assert len(told([events[0], events[0].model_copy(update={"job": 8})])) == 2
