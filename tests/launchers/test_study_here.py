"""A study on this machine, by real commands: run, broken off by a failure, gone on with."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from launchers.study_here import _code
from launchers.study_lock import study_lock
from megatron_mplug2.errors import ExitCode, UserError
from tests.data_tools.stages.corpora import LIMIT_S, text, wait_for, write_listing

PROJECT = Path(__file__).parents[2]
ODD = 'it\'s $(touch obeyed) "dir"'


def mplug2(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "megatron_mplug2.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_a_study_goes_on_where_it_failed(tmp_path: Path) -> None:
    write_listing(tmp_path / ODD, [text(f"text{number}", f"words of text {number}") for number in range(6)])
    quoted = "'it'\"'\"'s $(touch obeyed) \"dir\"'"
    steps = [
        {"name": "probe", "run": f"data probe listing {quoted} --out probed", "parts": 2},
        {"name": "shards", "run": "data shard listing probed --out shards", "after": ["probe"]},
        {"name": "vocabulary", "run": "data tokenizer shards --out vocab.txt --size 64", "after": ["shards"]},
    ]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"folder": "state", "steps": steps}))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/mine").touch()
    run = ("study", "run", "study.yaml", "--cluster", "local_cpu")
    done = mplug2(tmp_path, *run)
    assert done.returncode == ExitCode.MISTAKE, done.stderr
    assert "error: shards exists already and is not this stage's" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("shards: ended with 2")
    assert (tmp_path / "probed/listing.json").exists() and not (tmp_path / "vocab.txt").exists()
    (tmp_path / "shards/mine").unlink()
    done = mplug2(tmp_path, *run)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("probe: finished before\nshards: mplug2 data shard listing probed --out shards\n")
    assert (tmp_path / "vocab.txt").exists()
    told = [line.split()[:3] for line in mplug2(tmp_path, "study", "status", "study.yaml").stdout.splitlines()]
    assert told == [
        ["probe", "finished", "probe/0001"],
        ["shards", "finished", "shards/0002"],
        ["vocabulary", "finished", "vocabulary/0001"],
    ]
    assert not list(tmp_path.rglob("obeyed"))


def test_a_signal_goes_on_to_the_step(tmp_path: Path) -> None:
    """Which saves and says so, as a run does."""
    script = "trap 'exit 85' TERM; touch ready; while :; do sleep 0.02; done"
    assert signalled(tmp_path, script, signal.SIGTERM) == ExitCode.STOPPED


def test_after_a_ctrl_c_no_other_step_begins(tmp_path: Path) -> None:
    """A terminal sends it to the step too; this one is not impressed, and finishes."""
    assert signalled(tmp_path, "touch ready; until [ -e go ]; do sleep 0.02; done", signal.SIGINT) == ExitCode.STOPPED


def test_how_a_step_ended(tmp_path: Path) -> None:
    with study_lock(tmp_path) as lock:
        assert _code(["sh", "-c", "exit 65"], os.environ, lock) == ExitCode.BROKEN_DATA
        assert _code(["sh", "-c", "kill -KILL $$"], os.environ, lock) == 128 + signal.SIGKILL


def signalled(folder: Path, script: str, signum: signal.Signals) -> int:
    """What is told of a script, which makes the file `ready` and may wait for `go`, when this process gets a signal meanwhile."""

    def send() -> None:
        wait_for((folder / "ready").exists, "start")
        signal.pthread_kill(main.ident or 0, signum)
        (folder / "go").touch()

    main, sender = threading.main_thread(), threading.Thread(target=send)
    with study_lock(folder / "state") as lock:
        sender.start()
        code = _code(["sh", "-c", f"cd '{folder}'; {script}"], os.environ, lock)
    sender.join()
    return code


def test_one_at_a_time(tmp_path: Path) -> None:
    """Also when the one that held the folder is gone and its step is not."""
    folder = tmp_path / "state"
    with study_lock(folder) as lock:
        step = subprocess.Popen(["sleep", str(LIMIT_S)], pass_fds=(lock,))
        with pytest.raises(UserError, match="another `mplug2 study run` is at work"), study_lock(folder):
            pass
    with pytest.raises(UserError, match="another `mplug2 study run` is at work"), study_lock(folder):
        pass
    step.kill()
    step.wait()
    with study_lock(folder):
        pass
