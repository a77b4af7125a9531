"""A run folder takes one run at a time, and a lock that a killed run held is free again."""

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.training.only_run import only_run
from tests.ranks import run_ranks


def told(run_dir: Path) -> str:
    """What a rank is told that wants to use the folder; empty where it may."""
    try:
        with only_run(run_dir):
            return ""
    except UserError as error:
        return str(error)


def stay(run_dir: Path, inside: Event) -> None:
    run_ranks(1, _stay, run_dir, inside)


def _stay(run_dir: Path, inside: Event) -> None:
    with only_run(run_dir):
        inside.set()
        signal.pause()


def told_while_a_worker_is_left(run_dir: Path) -> str:
    with only_run(run_dir):
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
    try:
        return told(run_dir)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_second_run_is_refused_on_every_rank_until_the_first_has_died(tmp_path: Path) -> None:
    run_dir = tmp_path / "new" / "run"
    context = multiprocessing.get_context("fork")
    inside = context.Event()
    first = context.Process(target=stay, args=(run_dir, inside))
    first.start()
    assert inside.wait(60)
    assert all("another run is using" in said and str(run_dir) in said for said in run_ranks(2, told, run_dir))
    assert first.pid is not None
    for child in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    first.join(60)
    assert run_ranks(2, told, run_dir) == ["", ""]


def test_a_job_that_is_started_again_waits_for_its_former_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which live on, on a node that SLURM has lost; not for ever."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    context = multiprocessing.get_context("fork")
    inside = context.Event()
    former = context.Process(target=stay, args=(tmp_path, inside))
    former.start()
    assert inside.wait(60) and former.pid is not None
    (rank,) = Path(f"/proc/{former.pid}/task/{former.pid}/children").read_text().split()
    monkeypatch.setattr("megatron_mplug2.training.only_run.PATIENCE_S", 1.0)
    assert "another run is using" in run_ranks(1, told, tmp_path)[0]
    monkeypatch.setattr("megatron_mplug2.training.only_run.PATIENCE_S", 60.0)
    ender = context.Process(target=kill_later, args=(int(rank),))
    ender.start()
    assert run_ranks(1, told, tmp_path) == [""]
    ender.join(60)
    former.join(60)


def kill_later(pid: int) -> None:
    time.sleep(2)
    os.kill(pid, signal.SIGKILL)


def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path: Path) -> None:
    assert run_ranks(1, told_while_a_worker_is_left, tmp_path) == [""]


@pytest.mark.parametrize("below", [".", "run"])
def test_a_folder_that_cannot_be_is_told_on_every_rank(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    for said in run_ranks(2, told, tmp_path / "file" / below):
        assert said.startswith(f"cannot write into {tmp_path / 'file'}")
