"""An evaluation as a job of a real SLURM: what its time limit and a preemption make of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.jobs import JobStatus
from megatron_mplug2.errors import ExitCode
from tests.launchers.slurm_cluster import Slurm, needs_slurm
from tests.launchers.slurm_runs import PROJECT, Place
from tests.launchers.waiting_evaluation import WAITING

pytestmark = [pytest.mark.long, needs_slurm, pytest.mark.timeout(600)]

WAITS = f'#!/bin/sh\nexec "{sys.executable}" "{PROJECT}/tests/launchers/waiting_evaluation.py" "$@"\n'


def trained(folder: Path, corpus: Path) -> Place:
    """A finished run, to be evaluated by one rank on each of two nodes."""
    schedule = "schedule=[{steps: 4, image_text: 1, resolution: 32}]"
    test = [f"data.test.image_text=[{corpus}/shards/test/image_text]", "data.test.video_text=[]"]
    place = Place(folder, corpus, "layout.data=2", "training.global_batch=4", schedule, *test)
    done = place.mplug2("pretrain", "run.yaml")
    assert done.returncode == 0, done.stderr
    return place


def launched(place: Place) -> None:
    done = place.mplug2("launch", "evaluate", "run.yaml", "--cluster", "cluster.yaml")
    assert done.returncode == 0 and "2 x 1 ranks" in done.stdout, done


def waits(place: Place, found: JobStatus) -> bool:
    assert found.queued, place.logs()
    return (place.folder / WAITING).exists()


def results(place: Place) -> list[str]:
    """What an evaluation leaves, finished or not."""
    return sorted(path.name for path in place.run.glob("*") if any(word in path.name for word in ("evaluation", "predictions", "samples")))


def test_at_its_time_limit(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    """SLURM's own limit of two minutes, and its own signal half a minute to one and a half before."""
    place = trained(tmp_path, corpus)
    place.profile(place.stand_in(WAITS), tasks_per_node=1, time_limit_min=2, signal_lead_s=30)
    launched(place)
    place.wait(lambda found: waits(place, found))
    found = place.ended()
    assert (found.state, place.ends()) == ("FAILED", [(ExitCode.CUT_SHORT, "end")]), place.logs()
    assert results(place) == []
    logs = [path.read_text() for path in sorted(place.run.glob("launches/0001/logs/*_[01].log"))]
    assert [log.count("error: the cluster asked for an end") for log in logs] == [1, 1], place.logs()
    assert "Traceback" not in place.logs()
    why = "ended with 86 (cut short), not requeued: the cluster asked for an end, by its time limit or a preemption"
    for command in ("status", "summary"):
        shown = place.mplug2("jobs", command, place.run)
        (line,) = [line for line in shown.stdout.splitlines() if "86" in line]
        assert why in line and "launch it with a longer time_limit_min" in line, shown
    place.profile(sys.executable, tasks_per_node=1)
    launched(place)
    assert place.ended().state == "COMPLETED", place.logs()
    assert results(place) == ["evaluation.json", "predictions.jsonl", "samples.jsonl"]
    assert json.loads((place.run / "evaluation.json").read_text())["step"] == 4
    assert "evaluation.json: picture R@1 " in place.mplug2("jobs", "logs", place.run).stdout
    told = place.mplug2("jobs", "summary", place.run).stdout
    assert "mplug2 evaluate run.yaml: job " in told and "ended with 0 (finished)" in told, told


def test_a_preempted_one_begins_anew(slurm: Slurm, corpus: Path, tmp_path: Path) -> None:
    place = trained(tmp_path, corpus)
    place.profile(place.stand_in(WAITS), tasks_per_node=1)
    launched(place)
    place.wait(lambda found: waits(place, found))
    urgent = ["sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, timeout=60)
    assert place.ended().state == "COMPLETED", place.logs()
    assert place.ends() == [(ExitCode.CUT_SHORT, "requeue"), (ExitCode.FINISHED, "end")], place.logs()
    assert results(place) == ["evaluation.json", "predictions.jsonl", "samples.jsonl"]
