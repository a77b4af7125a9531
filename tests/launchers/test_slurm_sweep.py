"""A sweep on a real SLURM: points of one shape share an array; one dies, the others are measured, and it alone is submitted again."""

import sys
import time
from pathlib import Path

import pytest
import yaml

from launchers import queue
from launchers.sweep.results import read_results
from megatron_mplug2.observability.job_events import events_in
from tests.launchers.slurm_cluster import Slurm, needs_slurm, set_down
from tests.launchers.slurm_runs import Place
from tests.training.corpus import make_corpus

pytestmark = [pytest.mark.long, needs_slurm, pytest.mark.timeout(600)]

PATIENCE_S = 250
DIES = """#!/bin/sh
if [ "$SLURM_ARRAY_TASK_ID" = 2 ]; then
  until [ -e die ]; do sleep 0.1; done
  set -- -c "import nowhere" # it dies before it can leave a note
fi
exec "%s" "$@"
"""


def queue_empties(place: Place) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while queue.queued():
        assert time.monotonic() < deadline, logs(place)
        time.sleep(0.3)


def logs(place: Place) -> str:
    return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in place.folder.rglob("launches/*/logs/*"))


def test_a_sweep_as_arrays(slurm: Slurm, tmp_path: Path) -> None:
    place = Place(tmp_path, make_corpus(tmp_path / "corpus"))
    place.profile(place.stand_in(DIES % sys.executable))
    tree = {"folder": "my sweep", "config": "run.yaml", "scaling": "strong", "batch": 8, "node_ranks": 2, "data": [1, 2]}
    tree |= {"microbatch": [4, 8], "steps": 4, "warmup_steps": 1, "at_once": 2}
    (place.folder / "sweep.yaml").write_text(yaml.safe_dump(tree))
    run = ("sweep", "run", "sweep.yaml", "--cluster", "cluster.yaml")
    launched = place.mplug2(*run)
    assert launched.returncode == 0 and "the points have 2 shapes" in launched.stdout, launched.stderr
    assert ": 2 points of 1 x 1 ranks, " in launched.stdout and ": 1 points of 1 x 2 ranks, " in launched.stdout
    again = place.mplug2(*run)
    assert again.returncode == 0 and " 0 to run" in again.stderr and again.stdout == "", again
    (place.folder / "die").touch()
    queue_empties(place)
    told = [line.split(None, 2) for line in place.mplug2("sweep", "status", "sweep.yaml").stdout.splitlines()]
    assert [(name, progress) for name, progress, _ in told] == [
        ("n1-t1-p1-d1-mb4-none", "measured"),
        ("n1-t1-p1-d1-mb8-none", "failed"),
        ("n1-t1-p1-d2-mb4-none", "measured"),
        ("n1-t1-p1-d2-mb8-none", "skipped"),
    ], logs(place)
    assert told[1][2] == "exit code 1: ModuleNotFoundError: No module named 'nowhere'"
    resumed = place.mplug2(*run)
    assert ": 1 points of 1 x 1 ranks, " in resumed.stdout and resumed.stdout.count("job ") == 1, resumed
    queue_empties(place)
    printed = place.mplug2("sweep", "report", "sweep.yaml")
    assert "Points: 3 measured, 1 cannot be run." in printed.stdout, (printed, logs(place))
    rows = read_results(place.folder / "my sweep").rows.values()
    assert [row.measured.steps for row in rows if row.measured] == [3, 3, 3]
    assert (place.folder / "my sweep/report/report.html").exists()
    assert not list(tmp_path.rglob("obeyed"))


def test_a_node_that_is_set_down_fails_no_point(slurm: Slurm, tmp_path: Path) -> None:
    """By those who run the cluster. SLURM starts the point again, though nobody else would."""
    place = Place(tmp_path, make_corpus(tmp_path / "corpus"))
    place.profile(place.stand_in(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'))
    tree = {"folder": "my sweep", "config": "run.yaml", "scaling": "strong", "batch": 8, "node_ranks": 2, "data": [1]}
    tree |= {"microbatch": [2], "steps": 30, "warmup_steps": 1}
    (place.folder / "sweep.yaml").write_text(yaml.safe_dump(tree))
    assert place.mplug2("sweep", "run", "sweep.yaml", "--cluster", "cluster.yaml").returncode == 0
    deadline = time.monotonic() + PATIENCE_S
    while not list(place.folder.rglob("metrics.jsonl")):
        assert time.monotonic() < deadline, logs(place)
        time.sleep(0.1)
    (job,) = queue.queued()
    with set_down(job.nodes):
        while queue.queued():
            assert time.monotonic() < deadline, logs(place)
            told = place.mplug2("sweep", "status", "sweep.yaml").stdout
            assert "failed" not in told, (told, logs(place))
    told = place.mplug2("sweep", "status", "sweep.yaml").stdout
    assert told.split()[1] == "measured", (told, logs(place))
    (events,) = place.folder.rglob("events-1.jsonl")
    assert [event.restarts for event in events_in(events) if event.event == "start"] == [0, 1]
