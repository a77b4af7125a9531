"""Points on this machine, in real processes; what trains in them is a stand-in, but in the long test."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.study_lock import study_lock
from launchers.sweep.here import run_here
from launchers.sweep.points import Sweep
from launchers.sweep.results import read_results
from launchers.sweep.state import Progress, look
from megatron_mplug2.errors import ExitCode
from tests.data_tools.stages.corpora import LIMIT_S, wait_for
from tests.launchers.sweep.sweeps import PROJECT, sweep_of, write_run, write_sweep
from tests.training.corpus import make_corpus

DIES = """#!/bin/sh
case "$5" in *t1-p1-d2*) echo "error: out of luck"; echo "and more"; exit 1 ;; *t2*) kill -KILL $$ ;; esac
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return sweep_of(tmp_path, tensor=[1, 2], data=[1, 2])


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of Python."""
    path = folder / "python"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_point_that_dies_is_written_down_and_the_others_go_on(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, DIES, monkeypatch)
    told: list[str] = []
    with study_lock(sweep.folder, "sweep") as lock:
        assert run_here(sweep, sweep.points, os.environ, lock, told.append) == ExitCode.FAILED
    failed = [row.failed for row in read_results(sweep.folder).rows.values()]
    assert [(each.code, each.reason) for each in failed if each] == [
        (0, "its record tells of no end"),  # it did nothing at all
        (1, "out of luck"),
        (128 + signal.SIGKILL, "it said nothing"),
    ]
    assert told[2:4] == ["2 of 3: n1-t1-p1-d2-mb16-none", "  failed with 1: out of luck"]
    assert [state.progress for state in look(sweep, list).points] == [Progress.FAILED] * 3


def test_a_signal_ends_the_sweep_and_the_point_is_measured_anew(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in sends the signal to the process that runs the sweep, and waits for it to be passed on."""
    stand_in(tmp_path, "#!/bin/sh\ntrap 'exit 85' TERM\nkill -TERM $PPID\nwhile :; do sleep 0.02; done\n", monkeypatch)
    with study_lock(sweep.folder, "sweep") as lock:
        assert run_here(sweep, sweep.points, os.environ, lock, lambda line: None) == ExitCode.STOPPED
    assert not read_results(sweep.folder).rows
    assert [state.progress for state in look(sweep, list).points] == [Progress.TO_DO] * 3


def test_what_an_earlier_attempt_has_left_does_not_count(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "#!/bin/sh\nexit 0\n", monkeypatch)
    write_run(sweep.points[0])
    with study_lock(sweep.folder, "sweep") as lock:
        assert run_here(sweep, sweep.points[:1], os.environ, lock, lambda line: None) == ExitCode.FAILED
    assert not (sweep.points[0].run.run_dir / "metrics.jsonl").exists()


def mplug2(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "megatron_mplug2.cli", "sweep", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    """Two points of real trainings: the sweep is killed in the second one."""
    corpus = make_corpus(tmp_path / "corpus")
    small = ["training.global_batch=8", "training.microbatch=2", "objectives.vlm.group=2", f"data.vocab={corpus}/vocab.txt"]
    data = [f"data.train.video_text=[{corpus}/shards/train/video_text]", "data.workers=0"]
    clips = "schedule=[{steps: 1, video_text: 1, frames: 4, resolution: 32}]"
    path = write_sweep(tmp_path, overrides=[clips, *small, *data], batch=8, microbatch=[2], data=[1, 2], steps=4, warmup_steps=1)
    first = mplug2(tmp_path, "run", path.name, "--cluster", "local_cpu")
    wait_for(lambda: len(read_results(tmp_path / "state").rows) == 1, "first point")
    first.kill()
    first.communicate(timeout=LIMIT_S)

    def again() -> bool:
        process = mplug2(tmp_path, "run", path.name, "--cluster", "local_cpu")
        said = process.communicate(timeout=LIMIT_S)[1]
        assert process.returncode == 0 or "another `mplug2 sweep run` is at work" in said, said
        return process.returncode == 0

    wait_for(again, "end of the point that outlived its sweep")
    rows = read_results(tmp_path / "state").rows.values()
    assert [row.layout.ranks for row in rows if row.measured] == [1, 2]
    done = mplug2(tmp_path, "report", path.name)
    printed, said = done.communicate(timeout=LIMIT_S)
    assert done.returncode == 0 and "n1-t1-p1-d2-mb2-none" in printed, said
    assert (tmp_path / "state/report/report.html").exists() and (tmp_path / "state/report/throughput.png").exists()
