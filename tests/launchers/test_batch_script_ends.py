"""How the batch script takes a job's end: what it exits with, whether it starts the job again, and which reason it tells."""

from pathlib import Path

import pytest

from megatron_mplug2.errors import ExitCode
from tests.launchers.batch_jobs import PLAIN, last_event, run


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
ABORTED = "srun: error: node2: task 1: Aborted\\n"
EXITED = "srun: error: node1: task 0: Exited with exit code 1\\n"


@pytest.mark.parametrize(
    ("srun", "note", "end"),
    [
        (KILLED, "", (143, "requeue", "node2: task 1: Killed (out of memory?)")),
        (KILLED, "1\\nwhy: peer gone\\n", (1, "requeue", "node2: task 1: Killed (out of memory?)")),
        (KILLED, "85\\n", (85, "requeue", "")),
        ("srun: error: node1: tasks 0-1: Exited with exit code 1\\n", "1\\nwhy: no luck\\n", (1, "requeue", "no luck")),
        ("srun: error: node1: tasks 0-1: Exited with exit code 7\\n", "", (143, "requeue", "node1: tasks 0-1: Exited with exit code 7")),
        ("srun: error: node1: tasks 0-1: Terminated\\n", "", (143, "requeue", "")),
        (ABORTED, "1\\nwhy: the real cause\\n", (1, "requeue", "the real cause")),
        (ABORTED, "", (143, "requeue", "node2: task 1: Aborted")),
        (EXITED + KILLED, "1\\nwhy: the real cause\\n", (1, "requeue", "the real cause")),
        ('srun: error: Cannot "create" a step\\n', "", (143, "requeue", "Cannot create a step")),
        ("srun: error: Cannot\\tcreate\\001 a step\\n", "", (143, "requeue", "Cannot create  a step")),
        ('srun: error: Cannot "create" a step\\n', "1\\nwhy: no luck\\n", (1, "requeue", "no luck")),
    ],
    ids=[
        "killed",
        "others notice it",
        "others have saved",
        "it says why",
        "it says nothing",
        "SLURM ends it",
        "others abort on it",
        "it aborts",
        "others have to be killed",
        "nobody begins",
        "control characters",
        "srun complains",
    ],
)
def test_of_a_rank_that_died_srun_tells(tmp_path: Path, srun: str, note: str, end: tuple[int, str, str]) -> None:
    noted = f"printf '{note}' > $MPLUG2_EXIT_NOTES/0;" if note else ""
    run(tmp_path, PLAIN, code=143, said=f"printf '{srun}' >&2; {noted}")
    assert last_event(tmp_path) == end, (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize(
    ("count", "tasks", "end"),
    [
        (2, "1 3", (127, "requeue", "gone")),
        (2, "0 1 2 3", (ExitCode.MISTAKE, "end", "gone")),
        (1, "0 1", (127, "requeue", "gone")),
    ],
    ids=["one of two", "all", "the only one"],
)
def test_an_interpreter_that_is_on_no_node_is_a_mistake(tmp_path: Path, count: int, tasks: str, end: tuple[int, str, str]) -> None:
    """One node alone may be a bad one: the next start may have another."""
    well = "mplug2-health well node1 \n" * 2 * count
    said = f"for task in {tasks}; do printf '127\\nwhy: gone\\n' > $MPLUG2_EXIT_NOTES/$task; done;"
    run(tmp_path, PLAIN, code=143, said=said, nodes=well, count=count)
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
