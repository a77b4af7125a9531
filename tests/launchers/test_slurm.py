"""Runs on a real SLURM of two nodes: launched, looked at, killed, stopped, requeued, cancelled."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers import queue
from launchers.jobs import JobStatus, status_of
from launchers.launch_folder import launch_folders, read_events
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.errors import ExitCode
from tests.launchers.faulty_rank import STOPPED_AT
from tests.launchers.slurm_cluster import needs_slurm, running_slurm
from tests.training.corpus import demo_config, make_corpus

pytestmark = [pytest.mark.long, needs_slurm, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 800
FALSE = "#!/bin/sh\nexit 1\n"
SAVES_WHEN_TERMINATED = """#!/bin/sh
trap 'echo 85 > "$MPLUG2_EXIT_NOTES/$SLURM_PROCID"; exit 85' TERM
echo begun
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    with running_slurm():
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


class Place:
    """A run that can be launched, in a folder whose name a shell would obey."""

    def __init__(self, folder: Path, corpus: Path, *overrides: str) -> None:
        folder = folder / 'it\'s $(touch obeyed) "100%j" # `here`'
        folder.mkdir()
        self.folder, self.run = folder, folder / "my run"
        text_only = ["schedule=[{steps: 12, text: 1, resolution: 32}]", "data.workers=0"]
        config = demo_config(corpus, self.run, [*text_only, *overrides])
        (folder / "run.yaml").write_text(resolved_yaml(config))
        self.profile(sys.executable)

    def profile(self, python: str, **slurm: Any) -> None:
        shape = {"max_nodes": 2, "tasks_per_node": 2, "device": "cpu", "cpus_per_task": 1, "time_limit_min": 10, "python": python}
        environment = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}  # names of nodes on one host do not resolve
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump({"slurm": {**shape, "environment": environment, **slurm}}))

    def stand_in(self, script: str) -> str:
        """A program in the place of Python. Its name is plain: proctrack/linuxproc loses processes whose name has a space."""
        path = self.folder / "python"
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    def mplug2(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "megatron_mplug2.cli", *map(str, arguments)]
        environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120, check=False)

    def launch(self) -> "subprocess.CompletedProcess[str]":
        return self.mplug2("launch", "run.yaml", "--cluster", "cluster.yaml")

    def status(self) -> JobStatus:
        return status_of(self.run, queue.queued())

    def wait(self, ready: Callable[[JobStatus], bool]) -> JobStatus:
        deadline = time.monotonic() + PATIENCE_S
        while not ready(found := self.status()):
            assert time.monotonic() < deadline, f"{found}\n{self.logs()}"
            time.sleep(0.3)
        return found

    def ended(self) -> JobStatus:
        return self.wait(lambda found: not found.queued)

    def logs(self) -> str:
        paths = sorted(self.run.glob("launches/*/logs/*"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in paths)

    def ends(self) -> list[tuple[int | None, str]]:
        return [(event.code, event.next) for event in read_events(launch_folders(self.run)[-1]) if event.event == "end"]


def test_a_run_survives_a_killed_rank_and_a_time_limit(slurm: None, corpus: Path, tmp_path: Path) -> None:
    """2 nodes x 2 ranks, to the end of the schedule."""
    place = Place(tmp_path, corpus, "layout.data=4", "training.microbatch=2")
    place.profile(place.stand_in(f'#!/bin/sh\nexec "{sys.executable}" "{PROJECT}/tests/launchers/faulty_rank.py" "$@"\n'))
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
    history = [json.loads(line) for line in (place.run / "history.jsonl").read_text().splitlines()]
    starts = [event for event in history if event["event"] == "start"]
    assert [start["world_size"] for start in starts] == [4, 4, 4]
    assert starts[2]["step"] == STOPPED_AT + 1 and starts[2]["lost_steps"] == 0, "it goes on where it was stopped"
    steps = [json.loads(line) for line in (place.run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if step["kind"] == "train"] == list(range(12))
    shown = place.mplug2("jobs", "status", place.run)
    assert "start 1 ended with 85 (stopped), requeued" in shown.stdout and "step: 12" in shown.stdout, shown
    assert "3 starts, " in shown.stdout and "effective training time" in shown.stdout, shown
    assert "going on from the checkpoint after step 9 of 12" in place.mplug2("jobs", "logs", place.run).stdout
    assert "COMPLETED" in place.mplug2("jobs", "list", place.folder).stdout
    assert "is finished after step 12" in place.mplug2("jobs", "resume", place.run).stderr
    assert not list(place.folder.parent.rglob("obeyed")) and not (PROJECT / "obeyed").exists()


def test_a_mistake_is_not_requeued(slurm: None, corpus: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, corpus, "layout.data=1", "data.vocab=gone.txt")
    assert place.launch().returncode == 0
    found = place.ended()
    assert (found.state, place.ends()) == ("FAILED", [(ExitCode.MISTAKE, "end")]), place.logs()
    said = place.mplug2("jobs", "logs", place.run)
    assert said.stdout.startswith("error: data.vocab=gone.txt cannot be read"), said


def test_a_job_that_keeps_failing_is_requeued_to_the_limit(slurm: None, corpus: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, corpus, "layout.data=4")
    place.profile(place.stand_in(FALSE), requeue_limit=1)
    assert place.launch().returncode == 0
    assert place.ended().state == "FAILED"
    assert place.ends() == [(1, "requeue"), (1, "limit")]
    assert "started 1 times again, which is requeue_limit" in place.mplug2("jobs", "logs", place.run, "--rank", "batch").stdout


def test_a_cancelled_job_stays_cancelled_until_it_is_resumed(slurm: None, corpus: Path, tmp_path: Path) -> None:
    """Its ranks save and say so, as for a requeue."""
    place = Place(tmp_path, corpus, "layout.data=2", "layout.tensor=2")
    place.profile(place.stand_in(SAVES_WHEN_TERMINATED))
    assert place.launch().returncode == 0
    for _ in range(2):
        place.wait(lambda found: found.state == "RUNNING" and "begun" in place.logs())
        done = place.mplug2("jobs", "cancel", place.run)
        assert done.returncode == 0, done.stderr
        assert place.ended().state == "CANCELLED"
        assert ("requeue" in [after for _, after in place.ends()]) is False
        assert "has no job that waits or runs" in place.mplug2("jobs", "cancel", place.run).stderr
        done = place.mplug2("jobs", "resume", place.run)
        assert done.returncode == 0, done.stderr
    assert len(place.status().launch.jobs) == 3


def test_a_refused_job_leaves_nothing(slurm: None, corpus: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, corpus, "layout.data=4")
    place.profile("python3", partition="no such partition")
    done = place.launch()
    assert done.returncode == ExitCode.MISTAKE
    assert "SLURM refused the job: " in done.stderr and "invalid partition" in done.stderr and done.stderr.count("\n") == 1
    assert not launch_folders(place.run) and not list((place.run / "launches").glob("0*"))
