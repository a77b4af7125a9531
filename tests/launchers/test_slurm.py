"""Runs on a real SLURM of three nodes: launched, looked at, killed, stopped, requeued, cancelled."""

import json
from pathlib import Path

import pytest

from launchers.launch_folder import launch_folders
from megatron_mplug2.errors import ExitCode
from tests.launchers.faulty_rank import SECOND_AT
from tests.launchers.slurm_cluster import Slurm, needs_slurm
from tests.launchers.slurm_runs import PROJECT, Place

pytestmark = [pytest.mark.long, needs_slurm, pytest.mark.timeout(900)]

FALSE = "#!/bin/sh\nexit 1\n"
SAVES_WHEN_TERMINATED = """#!/bin/sh
trap 'echo 85 > "$MPLUG2_EXIT_NOTES/$SLURM_PROCID"; exit 85' TERM
echo begun
while :; do sleep 0.1; done
"""


def test_a_run_survives_a_killed_rank_and_a_time_limit(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """2 nodes x 2 ranks, to the end of the schedule."""
    place = Place(tmp_path, corpus, "layout.data=4", "training.microbatch=2")
    place.profile(place.faulty("killed-then-limited"))
    launched = place.launch()
    assert launched.returncode == 0 and "2 x 2 ranks" in launched.stdout, launched.stderr
    again = place.launch()
    assert again.returncode == ExitCode.MISTAKE and "is using" in again.stderr and again.stderr.count("\n") == 1
    assert len(launch_folders(place.run)) == 1
    found = place.ended()
    (killed, _), *others = ends = place.ends()
    assert [after for _, after in ends] == ["requeue", "requeue", "end"], place.logs()
    assert killed not in (ExitCode.FINISHED, ExitCode.STOPPED)
    assert [code for code, _ in others] == [ExitCode.STOPPED, ExitCode.FINISHED]
    assert (found.state, found.steps) == ("COMPLETED", 12)
    starts = place.history("start")
    assert [start["world_size"] for start in starts] == [4, 4, 4]
    assert starts[2]["step"] == SECOND_AT + 1 and starts[2]["lost_steps"] == 0, "it goes on where it was stopped"
    steps = [json.loads(line) for line in (place.run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if step["kind"] == "train"] == list(range(12))
    place.check_samples()
    shown = place.mplug2("jobs", "status", place.run)
    assert "start 1 ended with 85 (stopped), requeued" in shown.stdout and "step: 12" in shown.stdout, shown
    assert "3 starts, " in shown.stdout and "effective training time" in shown.stdout, shown
    told = place.mplug2("jobs", "summary", place.run)
    assert "my run: step 12, 3 starts in" in told.stdout and "waiting in the queue" in told.stdout, told
    assert "going on from the checkpoint after step 9 of 12" in place.mplug2("jobs", "logs", place.run).stdout
    assert "COMPLETED" in place.mplug2("jobs", "list", place.folder).stdout
    assert "is finished after step 12" in place.mplug2("jobs", "resume", place.run).stderr
    assert not list(place.folder.parent.rglob("obeyed")) and not (PROJECT / "obeyed").exists()


def test_a_mistake_is_not_requeued(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, corpus, "layout.data=1", "data.vocab=gone.txt")
    assert place.launch().returncode == 0
    found = place.ended()
    assert (found.state, place.ends()) == ("FAILED", [(ExitCode.MISTAKE, "end")]), place.logs()
    said = place.mplug2("jobs", "logs", place.run)
    assert said.stdout.startswith("error: data.vocab=gone.txt cannot be read"), said
    assert "ended with 2 (mistake), not requeued: data.vocab=gone.txt cannot be read" in place.mplug2("jobs", "status", place.run).stdout


def test_a_job_that_keeps_failing_is_requeued_to_the_limit(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, corpus, "layout.data=4")
    place.profile(place.stand_in(FALSE), requeue_limit=1)
    assert place.launch().returncode == 0
    assert place.ended().state == "FAILED"
    assert place.ends() == [(1, "requeue"), (1, "limit")]
    assert "started 1 times again, which is requeue_limit" in place.mplug2("jobs", "logs", place.run, "--rank", "batch").stdout


def test_a_cancelled_job_stays_cancelled_until_it_is_resumed(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """Its ranks save and say so, as for a requeue."""
    place = Place(tmp_path, corpus, "layout.data=2", "layout.tensor=2")
    place.profile(place.stand_in(SAVES_WHEN_TERMINATED))
    assert place.launch().returncode == 0
    for _ in range(2):
        place.wait(lambda found: found.state == "RUNNING" and "begun" in place.logs())
        done = place.mplug2("jobs", "cancel", place.run)
        assert done.returncode == 0, done.stderr
        assert place.ended().state == "CANCELLED"
        ends = place.ends()
        assert (ends[0], ends[-1][1]) == ((ExitCode.STOPPED, "taken"), "taken"), "the second one may not even have begun"
        assert "has no job that waits or runs" in place.mplug2("jobs", "cancel", place.run).stderr
        done = place.mplug2("jobs", "resume", place.run)
        assert done.returncode == 0, done.stderr
    assert len(place.status().launch.jobs) == 3


def test_a_refused_job_leaves_nothing(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, corpus, "layout.data=4")
    place.profile("python3", partition="no such partition")
    done = place.launch()
    assert done.returncode == ExitCode.MISTAKE
    assert "SLURM refused the job: " in done.stderr and "invalid partition" in done.stderr and done.stderr.count("\n") == 1
    assert not launch_folders(place.run) and not list((place.run / "launches").glob("0*"))
