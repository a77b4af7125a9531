"""Kills at every phase of a save, full disks and read-only folders: the next start loads the newest good checkpoint and says what it
skipped, and no rank is left hanging."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import commit, store
from megatron_mplug2.checkpoint.background import BackgroundSaver
from megatron_mplug2.errors import UserError
from tests.checkpoint.kills import BY_RANK_0, COMMITTED, PHASES, killed_at
from tests.checkpoint.runs import DP2, FIRST, LAYOUTS, load, save, state_of
from tests.checkpoint.toy import Setup, Toy
from tests.ranks import run_ranks

ALL = (0, 1)
SHORT = [
    ("before", (1,), False),
    ("inside a shard", (1,), False),
    ("inside a shard", ALL, True),
    ("before COMMIT", ALL, True),
    ("before the rename", (0,), False),
    ("before latest", (0,), True),
    ("while pruning", (0,), False),
]
CASES = [
    (phase, victims, background)
    for phase, victims, background in product(PHASES, [(0,), (1,), ALL], [False, True])
    if victims == (0,) or phase not in BY_RANK_0
]


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """With a good checkpoint after step 2."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def start_anew(folder: Path) -> tuple[int, tuple[str, ...], list[int]]:
    """As a run does after a crash: the step it goes on from, what it says, and the checkpoints that are there when it has saved step 4."""
    toy = Toy(DP2)
    store.recover(folder)
    found = load(folder, toy)
    save(folder, toy, 4, keep=1)
    assert toy.topology.rank or sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000004"], "nothing is left over"
    return found.state.step, found.said, commit.committed_steps(folder)


def check_kill(folder: Path, phase: str, victims: tuple[int, ...], background: bool) -> None:
    with pytest.raises(AssertionError, match=r"exit codes .*-9"):
        run_ranks(2, killed_at, phase, victims, folder, DP2, background)
    (step, said, kept), *others = run_ranks(2, start_anew, folder)
    assert others == [(step, said, kept)], "all ranks take the same one"
    assert kept == [4]
    assert step == (3 if phase in COMMITTED else FIRST)
    unfinished = f"skipped {folder}/step-00000003.partial: its save was not finished"
    if phase == "before":
        assert said in ((), (unfinished,)), "another rank may have begun"
    elif phase in ("before the rename", "before latest"):
        assert said == (f"{folder}/latest names 'step-00000002': step-00000003 is the newest good checkpoint",)
    elif phase in COMMITTED:
        assert said == ()
    else:
        assert said == (unfinished,)


@pytest.mark.parametrize(("phase", "victims", "background"), SHORT)
def test_a_kill(folder: Path, phase: str, victims: tuple[int, ...], background: bool) -> None:
    check_kill(folder, phase, victims, background)


@pytest.mark.long
@pytest.mark.parametrize(("phase", "victims", "background"), [case for case in CASES if case not in SHORT])
def test_a_kill_everywhere(folder: Path, phase: str, victims: tuple[int, ...], background: bool) -> None:
    check_kill(folder, phase, victims, background)


def failed_save(folder: Path, setup: Setup, background: bool) -> list[str]:
    """The lines of two saves in a row."""
    toy = Toy(setup)
    toy.train(0, 1)
    lines = []
    saver = BackgroundSaver()
    for _ in range(2):
        try:
            if background:
                saver.save(folder, state_of(3), toy.weights, toy.optimizer, toy.topology, commit.Retention(last=1))
                toy.train(1, 1)
                saver.wait()
            else:
                save(folder, toy, 3)
        except UserError as error:
            lines.append(str(error))
    return lines


@pytest.fixture
def small_disk(saved: Path, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with the good checkpoint and too little room for another."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    shutil.copytree(saved, place / "run")
    yield place / "run"
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk(small_disk: Path, background: bool) -> None:
    """Told on all ranks in one line; what was half written is gone, and the one before stays."""
    lines, others = run_ranks(2, failed_save, small_disk, Setup(layout=LAYOUTS["dp2 zero1"], hidden=2048), background)
    assert lines == others and len(set(lines)) == 1
    assert lines[0].startswith(f"cannot write a checkpoint in {small_disk}/step-00000003.partial: No space left on device (rank ")
    assert len(lines) == 2
    assert sorted(path.name for path in small_disk.iterdir()) == ["latest", "step-00000002"]
    assert [found for found, *_ in run_ranks(2, start_read_only, small_disk)] == [FIRST, FIRST]


def start_read_only(folder: Path) -> tuple[int, tuple[str, ...], str]:
    """Loads, and the line in which a save is refused."""
    toy = Toy(DP2)
    store.recover(folder)
    found = load(folder, toy)
    try:
        save(folder, toy, 4)
    except UserError as error:
        return found.state.step, found.said, str(error)
    return found.state.step, found.said, ""


def test_a_read_only_folder(folder: Path) -> None:
    """It loads; a save says in one line that it cannot."""
    if os.getuid() == 0:
        bound = subprocess.run(["mount", "--bind", "-o", "ro", str(folder), str(folder)], capture_output=True, check=False)
        if bound.returncode:
            pytest.skip("no right to mount a file system, and root may write everywhere else")
    else:
        folder.chmod(0o555)
    try:
        found = run_ranks(2, start_read_only, folder)
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", str(folder)], check=True)
        else:
            folder.chmod(0o755)
    assert found[0] == found[1]
    step, said, line = found[0]
    assert (step, said) == (FIRST, ())
    assert line.startswith(f"cannot write a checkpoint in {folder}: ") and "\n" not in line


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = run_ranks(2, failed_save, tmp_path / "file/run", DP2, False)
    assert lines == [[f"cannot write a checkpoint in {tmp_path}/file/run: Not a directory ({tmp_path}/file/run)"] * 2] * 2
