"""`mplug2 checkpoint ...` on a real run's checkpoints, whole, damaged and hostile."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from megatron_mplug2.checkpoint import inspection, store
from megatron_mplug2.checkpoint.commit import Retention, begin
from megatron_mplug2.checkpoint.commit_file import COMMIT, FileSum, checksum, fault_of, read_commit
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.checkpoint.storage import INDEX
from megatron_mplug2.checkpoint_commands import app
from megatron_mplug2.config.layout import LayoutConfig
from tests.checkpoint.test_newest import flip
from tests.checkpoint.test_storage import Touch
from tests.checkpoint.toy import Setup, Toy
from tests.plain_user import as_plain_user, needs_plain_user
from tests.ranks import run_ranks
from tests.refused import line_of

CONFIG = "name: toy\nlayout:\n  tensor: 2\n  pipeline: 1\n  data: 1\n  zero1: false\n"


def save_two(run: Path) -> None:
    toy = Toy(Setup(layout=LayoutConfig(tensor=2, zero1=False)))
    for step in (1, 2):
        state = RunState(step=step, config=CONFIG, data={"steps": step, "substituted": 3, "note": "\x1b[31mred"})
        store.save(run / "checkpoints", state, toy.weights, toy.optimizer, toy.topology, Retention(last=2))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_ranks(2, save_two, tmp_path / "run")
    return tmp_path / "run"


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: str | Path) -> str:
    return line_of(command(*arguments))


def test_list(run: Path) -> None:
    folder = run / "checkpoints"
    begin(folder, 3)
    first, second, third = command("list", run).stdout.splitlines()
    assert first.startswith(f"{folder}/step-00000002  step 2  0.1 MiB in 4 files")
    assert second.startswith(f"{folder}/step-00000001  step 1  ")
    assert third == f"{folder}/step-00000003.partial  step 3  its save was not finished"
    (folder / "step-00000002" / COMMIT).unlink()
    assert command("list", folder).stdout.splitlines()[1] == f"{folder}/step-00000002  step 2  COMMIT is missing"


def test_verify(run: Path) -> None:
    folder = run / "checkpoints"
    assert command("verify", run).stdout == f"{run}: 2 checkpoints, all bytes as written\n"
    flip(folder / "step-00000001/__1_0.distcp")
    (folder / "step-00000001/run.json").unlink()
    (folder / "step-00000002" / COMMIT).write_text("")
    assert command("verify", run).stderr.splitlines() == [
        f"{folder}/step-00000001: __1_0.distcp is damaged (its checksum differs)",
        f"{folder}/step-00000001: run.json is missing",
        f"{folder}/step-00000002/COMMIT is damaged",
    ]
    assert refusal("verify", run).startswith(f"{run} has 3 faults (listed above)")
    assert refusal("verify", folder / "step-00000002").startswith(f"{folder}/step-00000002 has 1 fault")


def test_what_a_run_removes_while_it_is_verified_is_no_fault(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def removed_meanwhile(path: Path, expected: FileSum) -> str | None:
        if path.parent.name == "step-00000001":
            shutil.rmtree(path.parent, ignore_errors=True)
        return fault_of(path, expected)

    monkeypatch.setattr(inspection, "fault_of", removed_meanwhile)
    assert command("verify", run).stdout == f"{run}: 1 checkpoint, all bytes as written\n"


def test_inspect(run: Path) -> None:
    checkpoint = run / "checkpoints/step-00000002"
    lines = command("inspect", checkpoint).stdout.splitlines()
    assert lines[1:3] == ["step: 2", "layout: tensor 2, pipeline 1, data 1, zero1 False (any other reads it too)"]
    assert "parameters: 383 (float32)" in lines and "  embedding: 88" in lines and "  taps: 60" in lines
    assert "optimizer: exp_avg, exp_avg_sq, step" in lines
    assert "  substituted: 3" in lines and "    tensor: 2" in lines
    assert "  note: \ufffd[31mred" in lines, "nothing that a terminal obeys"
    weights = command("inspect", checkpoint, "--weights").stdout.splitlines()
    assert "embedding.weight  11x8  float32" in weights and "temperature  scalar  float32" in weights
    assert len(weights) == 10


def test_inspect_takes_the_newest_whole_one_of_a_run(run: Path) -> None:
    newest = run / "checkpoints" / "step-00000002"
    assert command("inspect", run).stdout == command("inspect", newest).stdout
    (newest / COMMIT).unlink()
    assert command("inspect", run).stdout.splitlines()[1] == "step: 1"
    (newest.with_name("step-00000001") / COMMIT).unlink()
    assert refusal("inspect", run).startswith(f"no complete checkpoint in {run}: `mplug2 checkpoint list {run}` tells")


def test_a_hostile_index_runs_nothing(run: Path, tmp_path: Path) -> None:
    """Even where its COMMIT vouches for it."""
    checkpoint = run / "checkpoints/step-00000002"
    (checkpoint / INDEX).write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    content = read_commit(checkpoint)
    sizes = f"{os.path.getsize(checkpoint / INDEX)} of {content.files[INDEX].size} bytes"
    assert refusal("inspect", checkpoint) == f"{checkpoint}: .metadata has {sizes}"
    files = {**content.files, INDEX: checksum(checkpoint / INDEX)}
    (checkpoint / COMMIT).write_text(content.model_copy(update={"files": files}).model_dump_json())
    assert "it names posix.system" in refusal("inspect", checkpoint)
    assert command("verify", checkpoint).exit_code == 0, "its bytes are as written"
    assert not (tmp_path / "ran").exists()


def test_there_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("list", "verify"):
        assert refusal(name, tmp_path) == f"no checkpoint in {tmp_path}: name a run's folder, or a checkpoint's"
    assert refusal("inspect", tmp_path) == f"no checkpoint in {tmp_path}: name a run's folder, or a checkpoint's"
    assert refusal("verify", tmp_path / "step-00000001") == f"no checkpoint in {tmp_path}/step-00000001"


@needs_plain_user
def test_a_folder_that_cannot_be_read_is_not_one_without_checkpoints(run: Path) -> None:
    folder = store.checkpoint_folder(run)
    folder.chmod(0)
    try:
        done = as_plain_user("checkpoint", "list", run)
    finally:
        folder.chmod(0o755)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: cannot read {folder}: Permission denied\n")
