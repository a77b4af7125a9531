"""Kills, damage, full disks and strangers' checkpoints: the one from before stays, and every rank says the same line."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_mplug2.checkpoint import commit, storage, store
from megatron_mplug2.config.schema import LayoutConfig
from megatron_mplug2.errors import UserError
from tests.checkpoint.runs import LAYOUTS, load_or_line, refusal, resume, save, state_of, train_save_train
from tests.checkpoint.toy import Setup, Toy
from tests.ranks import run_ranks

DP2 = Setup(layout=LAYOUTS["dp2 zero1"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    run_ranks(2, train_save_train, folder, DP2)
    return folder


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to be damaged."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run/step-00000002"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["__0_0.distcp", "__1_0.distcp", ".metadata", "run.json"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [(truncate, "has {short} of {size} bytes"), (flip, "is damaged (its checksum differs)"), (Path.unlink, "is missing")],
    ids=["truncated", "a bit flipped", "missing"],
)
def test_a_damaged_file(checkpoint: Path, file: str, damage: Callable[[Path], None], said: str) -> None:
    size = (checkpoint / file).stat().st_size
    damage(checkpoint / file)
    said = said.format(short=size - 1, size=size)
    assert refusal(checkpoint.parent, DP2) == f"{checkpoint / file} {said}: remove {checkpoint} to use an earlier checkpoint"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"format": 1, "step": 2, "files": {"run.json": 3}}'])
def test_a_damaged_commit(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "COMMIT").write_bytes(content)
    assert refusal(checkpoint.parent, DP2) == f"{checkpoint}/COMMIT is damaged: remove {checkpoint} to use an earlier checkpoint"
    with pytest.raises(UserError, match="COMMIT is damaged"):
        store.read_state(checkpoint.parent)


def test_a_commit_of_another_checkpoint(checkpoint: Path) -> None:
    """Whole, but not of these files."""
    files = commit.read_commit(checkpoint).files
    files["__0_0.distcp"], files["__1_0.distcp"] = files["__1_0.distcp"], files["__0_0.distcp"]
    (checkpoint / "COMMIT").write_text(commit.Commit(format=1, step=2, files=files).model_dump_json())
    assert "distcp" in refusal(checkpoint.parent, DP2)


def test_removing_the_damaged_one_as_told(checkpoint: Path) -> None:
    run_ranks(2, save_step, checkpoint.parent, DP2, 7)
    flip(checkpoint.with_name("step-00000007") / "run.json")
    assert "step-00000007" in refusal(checkpoint.parent, DP2)
    shutil.rmtree(checkpoint.with_name("step-00000007"))
    run_ranks(2, resume, checkpoint.parent, DP2, False)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (
            Setup(layout=LAYOUTS["tp2"], hidden=16),
            "is of another model: 6 of another size (embedding.weight (11, 8), here (11, 16), first.weight (12, 8), here (12, 16), ",
        ),
        (Setup(layout=LAYOUTS["pp2"], extra_weight=True), "is of another model: 1 missing (extra)"),
        (
            Setup(layout=LayoutConfig(data=2, zero1=False), sgd=True),
            "has optimizer state exp_avg, exp_avg_sq, step, this run's optimizer keeps momentum_buffer",
        ),
    ],
    ids=["sizes", "a weight more", "optimizer"],
)
def test_another_model(saved: Path, setup: Setup, said: str) -> None:
    assert refusal(saved, setup).startswith(f"{saved}/step-00000002 {said}")


def test_a_model_with_less(tmp_path: Path) -> None:
    run_ranks(1, train_save_train, tmp_path, Setup(extra_weight=True))
    assert refusal(tmp_path, DP2) == f"{tmp_path}/step-00000002 is of another model: 1 unexpected (extra)"


def save_weights(folder: Path, setup: Setup) -> None:
    toy = Toy(setup)
    store.save(folder, state_of(2), toy.weights, None, toy.topology, keep=1)
    assert store.load_weights(folder, toy.weights, toy.topology).step == 2


@pytest.mark.parametrize("layout", ["one", "tp2", "dp2 zero1"])
def test_a_checkpoint_of_weights_alone(tmp_path: Path, layout: str) -> None:
    run_ranks(LAYOUTS[layout].world_size, save_weights, tmp_path, Setup(layout=LAYOUTS[layout]))
    said = "has optimizer state none, this run's optimizer keeps exp_avg, exp_avg_sq, step"
    assert refusal(tmp_path, DP2) == f"{tmp_path}/step-00000002 {said}"


def save_step(folder: Path, setup: Setup, step: int, keep: int = 2) -> str | None:
    toy = Toy(setup)
    toy.train(0, 1)
    try:
        save(folder, toy, step, keep)
    except UserError as error:
        return str(error)
    return None


def die_at(module: str, name: str, folder: Path, setup: Setup, keep: int, after: bool = False) -> None:
    """Saves step 3, where rank 0 is killed when it comes to a function, or after it."""
    if os.environ["RANK"] == "0":
        owner: object = {"os": os, "shutil": shutil, "Path": Path, "commit": commit, "storage": storage, "torch": torch}[module]

        function = getattr(owner, name)

        def die(*args: object, **kwargs: object) -> None:
            if after:
                function(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        toy = Toy(setup)
        toy.train(0, 1)
        setattr(owner, name, die)
        save(folder, toy, 3, keep)
    else:
        save_step(folder, setup, 3, keep)


@pytest.mark.parametrize(
    ("module", "name", "latest"),
    [
        ("storage", "write", 2),  # nothing but the run's state written
        ("torch", "save", 2),  # in the middle of a file
        ("storage", "own_files", 2),  # all written, nothing committed
        ("commit", "commit", 2),
        ("Path", "rename", 2),  # COMMIT written, in a folder that doesn't count
        ("os", "replace", 2),  # complete, but not named the latest
        ("shutil", "rmtree", 3),  # when older ones go
    ],
)
def test_a_kill_leaves_a_checkpoint(saved: Path, tmp_path: Path, module: str, name: str, latest: int) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    with pytest.raises(AssertionError, match=r"exit codes \[-9"):
        run_ranks(2, die_at, module, name, folder, DP2, 1)
    assert commit.latest(folder) == latest
    assert run_ranks(2, load_or_line, folder, DP2) == [None, None]
    assert run_ranks(2, save_step, folder, DP2, 4, 1) == [None, None], "the next save clears up"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000004"]


def test_a_kill_while_the_only_checkpoint_is_replaced(saved: Path, tmp_path: Path) -> None:
    """By the time that the old one is removed, the new one is there."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    (folder / "step-00000002").rename(folder / "step-00000003")
    with pytest.raises(AssertionError, match=r"exit codes \[-9"):
        run_ranks(2, die_at, "shutil", "rmtree", folder, DP2, 1, True)
    assert commit.latest(folder) == 3
    assert run_ranks(2, load_or_line, folder, DP2) == [None, None]


def save_on_full_disk(folder: Path, setup: Setup, limit: int, full_rank: str) -> str | None:
    """One rank's writes fail from some size of a file on, by the system's own error."""
    toy = Toy(setup)
    if os.environ["RANK"] == full_rank:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(folder, toy, 3)
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return None


@pytest.mark.parametrize("full_rank", ["0", "1"])
@pytest.mark.parametrize(("limit", "hidden"), [(0, 8), (1500, 8), (30_000, 4096)], ids=["nothing", "small tensors", "in a tensor"])
def test_a_disk_that_runs_full(saved: Path, tmp_path: Path, limit: int, full_rank: str, hidden: int) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    lines = run_ranks(2, save_on_full_disk, folder, Setup(layout=LAYOUTS["dp2 zero1"], hidden=hidden), limit, full_rank)
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"cannot write a checkpoint in {folder}") and "File too large" in lines[0] and "\n" not in lines[0]
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000002"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = run_ranks(2, save_step, tmp_path / "file/run", DP2, 3)
    assert lines == [f"cannot write a checkpoint in {tmp_path}/file/run: Not a directory ({tmp_path}/file/run)"] * 2


def test_no_checkpoint(tmp_path: Path) -> None:
    assert refusal(tmp_path, DP2) == f"no checkpoint in {tmp_path}"
