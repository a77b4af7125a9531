"""Real forked gloo ranks: what they return, how they fail, and how they are stopped."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from launchers.local import launch
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import BrokenDataError, ExitCode, RankError, UserError
from tests.garbage import garbage

PROJECT = Path(__file__).parents[2]


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config(PROJECT / "configs/pretrain/demo.yaml", [f"run_dir={folder}", *overrides])


def add_up_ranks(config: RunConfig) -> None:
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    (config.run_dir / f"{dist.get_rank()}").write_text(f"{total.item()} {os.getpid()} {torch.get_num_threads()}")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_meets_the_others(tmp_path: Path, world_size: int) -> None:
    launch(config_of(tmp_path, f"layout.data={world_size}", "training.global_batch=64", "training.threads=1"), add_up_ranks)
    said = [path.read_text().split() for path in sorted(tmp_path.iterdir())]
    assert [float(total) for total, _, _ in said] == [world_size * (world_size + 1) / 2] * world_size
    assert len({pid for _, pid, _ in said}) == world_size
    assert (str(os.getpid()) in {pid for _, pid, _ in said}) == (world_size == 1), "one rank runs in process, several are forked"
    assert {threads for _, _, threads in said} == {"1"}
    assert not dist.is_initialized()


def user_error_everywhere(config: RunConfig) -> None:
    raise UserError(f"{config.run_dir}: no shards here")


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_user_error_of_all_ranks_is_raised_once(tmp_path: Path, world_size: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}: no shards here$"):
        launch(config_of(tmp_path, f"layout.data={world_size}"), user_error_everywhere)
    assert "Traceback" not in capfd.readouterr().err


def stop_early(config: RunConfig) -> ExitCode:
    dist.barrier()
    return ExitCode.STOPPED


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_that_stopped_early_say_so(tmp_path: Path, world_size: int) -> None:
    assert launch(config_of(tmp_path, f"layout.data={world_size}"), stop_early) is ExitCode.STOPPED


def find_broken_data(config: RunConfig) -> None:
    raise BrokenDataError("too many bad samples")


def test_broken_data_are_told_from_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(BrokenDataError, match=r"^too many bad samples$"):
        launch(config_of(tmp_path), find_broken_data)


def fail_on_rank_1(config: RunConfig) -> None:
    if dist.get_rank() == 1:
        raise ValueError("the loss is not a number")
    dist.barrier()


def test_the_failing_rank_is_named_and_the_others_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(RankError, match="rank 1 of 2 failed: ValueError: the loss is not a number"):
        launch(config_of(tmp_path), fail_on_rank_1)
    assert time.monotonic() - started < 30
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1 and "fail_on_rank_1" in shown


def collect_garbage(config: RunConfig) -> None:
    gc.collect()


def test_ranks_leave_their_parents_garbage_alone(tmp_path: Path) -> None:
    """A process group among it would wait in its destructor for threads that a forked rank hasn't."""
    with garbage(tmp_path):
        launch(config_of(tmp_path), collect_garbage)


def kill_rank_1(config: RunConfig) -> None:
    (config.run_dir / f"pid-{dist.get_rank()}").write_text(str(os.getpid()))
    dist.barrier()
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # does not notice


def test_a_killed_rank_ends_the_run_though_the_others_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.local.GRACE_S", 0.5)
    with pytest.raises(RankError, match=r"rank 1 of 2 was ended by SIGKILL \(out of memory\?\)"):
        launch(config_of(tmp_path), kill_rank_1)
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid-{rank}").read_text()), 0)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import torch.distributed as dist
from launchers.local import launch
from megatron_mplug2.config.load import load_config

def work(config):
    asked = []
    if {handles}:
        signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(signum))
        signal.signal(signal.SIGINT, lambda signum, frame: asked.append(signum))
    dist.barrier()
    (config.run_dir / f"ready-{{dist.get_rank()}}").write_text(str(os.getpid()))
    while not asked:
        time.sleep(0.02)
    time.sleep(0.3)
    (config.run_dir / f"saved-{{dist.get_rank()}}").write_text(",".join(map(str, asked)))

if __name__ == "__main__":
    launch(load_config(Path("configs/pretrain/demo.yaml"), ["run_dir={folder}"]), work)
    print("ended cleanly")
"""


def start(folder: Path, *, handles: bool) -> "subprocess.Popen[str]":
    script = folder / "script.py"
    script.write_text(SCRIPT.format(handles=handles, folder=folder))
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=PROJECT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for rank in (0, 1):
        wait_for(folder / f"ready-{rank}")
    return process


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.05)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_once(tmp_path: Path, signum: signal.Signals) -> None:
    process = start(tmp_path, handles=True)
    os.killpg(process.pid, signum)  # what a Ctrl-C at a terminal does: the whole group gets it
    time.sleep(0.1)
    if signum is signal.SIGTERM:
        process.send_signal(signum)  # some senders repeat it
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ended cleanly\n"), err
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in (0, 1)] == [str(int(signum))] * 2


def test_ranks_without_a_handler_end_quietly(tmp_path: Path) -> None:
    process = start(tmp_path, handles=False)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + signal.SIGTERM, "", "")


def test_ranks_end_with_their_parent(tmp_path: Path) -> None:
    process = start(tmp_path, handles=True)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    for rank in (0, 1):
        pid = int((tmp_path / f"ready-{rank}").read_text())
        while running(pid):
            assert time.monotonic() < deadline, f"rank {rank} lives on"
            time.sleep(0.05)


def running(pid: int) -> bool:
    """Not gone, and not waiting to be reaped either."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
