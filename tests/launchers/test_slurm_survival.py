"""What a run survives on a real SLURM of three nodes beside a killed rank and a time limit; and what it ends at, with one clear line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.launch_folder import launch_folders
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import read_events
from tests.launchers.faulty_rank import DYING, FIRST_AT, SECOND_AT
from tests.launchers.slurm_cluster import Slurm, needs_slurm, running_slurm, set_down
from tests.launchers.slurm_runs import STEPS, Place

pytestmark = [pytest.mark.long, needs_slurm, pytest.mark.timeout(900)]

LOOKS_AT_NODES = f"""#!/bin/sh
case "$*" in
  *launchers.health*) ;;
  *) echo 0 > "$MPLUG2_EXIT_NOTES/$SLURM_PROCID"; exit 0 ;; # the run itself
esac
{{case}}
exec "{sys.executable}" "$@"
"""
WITHOUT_THE_FOLDER = (
    'if [ "$SLURMD_NODENAME" = node1 ]; then set -- -m launchers.health /nowhere --device=cpu --free-gb=0 --timeout-s=60; fi'
)


def two_nodes(folder: Path, corpus: Path) -> Place:
    """A run of one rank on each of two nodes."""
    return Place(folder, corpus, "layout.data=2", "training.global_batch=4")


def test_an_exception_and_a_preemption(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """The urgent job gets its nodes, then the run has them again."""
    place = two_nodes(tmp_path, corpus)
    place.profile(place.faulty("broken-then-preempted"), tasks_per_node=1)
    assert place.launch().returncode == 0
    found = place.ended()
    ends = place.ends()
    assert (found.state, found.steps) == ("COMPLETED", STEPS), place.logs()
    assert ends[0] == (ExitCode.FAILED, "requeue") and ends[-1] == (ExitCode.FINISHED, "end"), ends
    assert ExitCode.STOPPED in [code for code, _ in ends], "it saved before its nodes were taken"
    _, second, third = place.history("start")
    assert (second["step"], second["lost_steps"]) == (5, FIRST_AT - 5), "from the checkpoint before the exception"
    assert (third["step"], third["lost_steps"]) == (SECOND_AT + 1, 0), "from where it was preempted"
    assert "ValueError: the rank is broken" in place.mplug2("jobs", "logs", place.run, "--rank", "1", "--lines", "200").stdout
    place.check_samples()


def test_a_real_time_limit(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """SLURM's own, and its own signal a minute before, or two; there may be one more in a slow second start."""
    place = two_nodes(tmp_path, corpus)
    place.profile(place.faulty("really-limited"), tasks_per_node=1, time_limit_min=2, signal_lead_s=60)
    assert place.launch().returncode == 0
    found = place.ended()
    first, *_, last = place.ends()
    assert (found.state, found.steps) == ("COMPLETED", STEPS), place.logs()
    assert (first, last) == ((ExitCode.STOPPED, "requeue"), (ExitCode.FINISHED, "end")), place.logs()
    assert all(start["lost_steps"] == 0 for start in place.history("start"))
    place.check_samples()


def test_a_run_goes_on_on_fewer_nodes(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = two_nodes(tmp_path, corpus)
    place.profile(place.faulty("limited"), tasks_per_node=1, requeue_limit=0, max_nodes=3)
    assert place.launch().returncode == 0
    place.ended()
    assert place.ends() == [(ExitCode.STOPPED, "limit")], place.logs()
    refused = place.mplug2("jobs", "resume", place.run, "--nodes", "3")
    assert refused.returncode == ExitCode.MISTAKE and len(launch_folders(place.run)) == 1
    assert "training.global_batch=4 cannot be shared out to 3 data-parallel ranks" in refused.stderr and refused.stderr.count("\n") == 1
    place.profile(place.faulty("undisturbed"))
    resumed = place.mplug2("jobs", "resume", place.run, "--nodes", "1")
    assert resumed.returncode == 0 and "0002 on 1 node, layout.data=1" in resumed.stdout, resumed
    found = place.ended()
    assert (found.state, found.steps) == ("COMPLETED", STEPS), place.logs()
    before, after = place.history("start")
    assert (before["data"], after["data"], after["step"], after["lost_steps"]) == (2, 1, FIRST_AT + 1, 0)
    place.check_samples()


def test_a_bad_node_is_named_and_left_out(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = two_nodes(tmp_path, corpus)
    place.profile(place.stand_in(LOOKS_AT_NODES.format(case=WITHOUT_THE_FOLDER)), tasks_per_node=1, health={})
    assert place.launch().returncode == 0
    assert place.ended().state == "COMPLETED", place.logs()
    assert place.ends() == [(ExitCode.BAD_NODE, "requeue"), (ExitCode.FINISHED, "end")], place.logs()
    assert place.nodes_of_starts() == ["node[1-2]", "node[2-3]"]
    shown = place.mplug2("jobs", "status", place.run).stdout
    assert "start 0 failed its health check, node1 left out of the next start: it does not see /nowhere/launch.json" in shown, shown


def test_a_node_without_the_interpreter_is_left_out(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """It has nothing that could tell of it."""
    place = two_nodes(tmp_path, corpus)
    gone = 'if [ "$SLURMD_NODENAME" = node2 ]; then exec /nowhere/python "$@"; fi'
    place.profile(place.stand_in(LOOKS_AT_NODES.format(case=gone)), tasks_per_node=1, health={"free_gb": 0})
    assert place.launch().returncode == 0
    assert place.ended().state == "COMPLETED", place.logs()
    assert place.nodes_of_starts() == ["node[1-2]", "node[1,3]"], place.logs()
    assert "node2 left out of the next start: its check ended with 127" in place.mplug2("jobs", "status", place.run).stdout


def test_a_node_that_is_set_down_takes_no_run_for_finished(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """By those who run the cluster, under a run of one rank: srun ends with 0 then. SLURM starts it again elsewhere."""
    place = Place(tmp_path, corpus, "layout.data=1", "training.global_batch=4")
    place.profile(place.faulty("first-node-dies"), tasks_per_node=1)
    assert place.launch().returncode == 0
    place.wait(lambda found: (place.run / DYING).exists())
    with set_down((place.run / DYING).read_text()):
        place.wait(lambda found: len(place.nodes_of_starts()) == 2)
        assert (ExitCode.FINISHED, "end") not in place.ends(), place.logs()
        found = place.ended()
    assert (found.state, found.steps) == ("COMPLETED", STEPS), place.logs()
    assert place.ends()[-1] == (ExitCode.FINISHED, "end")
    place.check_samples()


def test_a_check_that_fails_everywhere_ends_the_job(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = two_nodes(tmp_path, corpus)
    place.profile(place.stand_in(LOOKS_AT_NODES.format(case="")), tasks_per_node=1, health={"free_gb": 1e9})
    assert place.launch().returncode == 0
    assert place.ended().state == "FAILED"
    assert place.ends() == [(ExitCode.BAD_NODE, "end")], place.logs()
    said = place.mplug2("jobs", "logs", place.run, "--rank", "batch").stdout
    assert "error: the health check failed on every node: " in said and "health.free_gb asks for 1e+09" in said, said


def full_of_another_job() -> str:
    command = ["sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_a_folder_that_is_lost_while_the_job_waits(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """First what the job writes into, then the run's whole folder: one line each, and no other start."""
    place = two_nodes(tmp_path, corpus)
    place.profile(place.stand_in("#!/bin/sh\nexit 0\n"), tasks_per_node=1)
    said = []
    for lost in ("logs", ""):
        other = full_of_another_job()
        place.wait_for_state(other, "RUNNING")
        assert place.launch().returncode == 0
        job = place.status().job
        assert job is not None
        shutil.rmtree(launch_folders(place.run)[-1] / lost if lost else place.run)
        subprocess.run(["scancel", other], check=True, timeout=60)
        place.wait_for_state(job, "FAILED")
        said.append(place.mplug2("jobs", "status", place.run))
    first, second = said
    assert "wrote nothing" in first.stdout and "FAILED" in first.stdout, first
    assert second.returncode == ExitCode.MISTAKE and "has no launches" in second.stderr and second.stderr.count("\n") == 1, second


def test_the_death_of_a_node(corpus: Path, tmp_path: Path) -> None:
    """Its daemon, the job's step and the rank are gone at once; the job goes on elsewhere when SLURM has noticed."""
    with running_slurm(slurmd_timeout_s=10) as slurm:
        place = two_nodes(tmp_path, corpus)
        place.profile(place.faulty("node-dies"), tasks_per_node=1)
        assert place.launch().returncode == 0
        place.wait(lambda found: (place.run / DYING).exists())
        dead = (place.run / DYING).read_text()
        slurm.kill_node(dead)
        found = place.ended()
        assert (found.state, found.steps) == ("COMPLETED", STEPS), place.logs()
        before, after = place.nodes_of_starts()
        assert (dead, before, after) == ("node2", "node[1-2]", "node[1,3]")
        assert [(start["step"], start["lost_steps"]) for start in place.history("start")] == [(0, 0), (5, FIRST_AT - 5)]
        events = read_events(launch_folders(place.run)[-1])
        assert [event.restarts for event in events if event.event == "start"] == [0, 1]
        place.check_samples()
