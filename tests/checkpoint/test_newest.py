"""The newest good checkpoint is found on all ranks together, and each newer one that is not good is named with its fault."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import newest
from megatron_mplug2.checkpoint.commit import LATEST, begin
from megatron_mplug2.checkpoint.commit_file import COMMIT
from megatron_mplug2.errors import UserError
from tests.checkpoint.test_commit import make
from tests.ranks import run_ranks

OLDER, NEWER = "step-00000100", "step-00000200"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def choices(folders: list[Path]) -> list[tuple[str | None, list[str]] | str]:
    """Of each folder the name that is chosen and what is said, without the folder's name, or the line that refuses."""
    found: list[tuple[str | None, list[str]] | str] = []
    for folder in folders:
        try:
            choice = newest.choose(folder)
        except UserError as error:
            found.append(str(error).replace(str(folder), "FOLDER"))
        else:
            name = choice.good.path.name if choice.good is not None else None
            found.append((name, [line.replace(str(folder), "FOLDER") for line in choice.said]))
    return found


def of_all_ranks(folders: list[Path]) -> list[tuple[str | None, list[str]] | str]:
    first, *others = run_ranks(3, choices, folders)
    assert all(other == first for other in others)
    found: list[tuple[str | None, list[str]] | str] = first
    return found


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a bit flipped": (lambda folder: flip(folder / NEWER / "data"), "data is damaged (its checksum differs)"),
    "cut": (lambda folder: truncate(folder / NEWER / "data"), "data has 10 of 11 bytes"),
    "missing": (lambda folder: (folder / NEWER / "data").unlink(), "data is missing"),
    "no COMMIT": (lambda folder: (folder / NEWER / COMMIT).unlink(), "COMMIT is missing"),
    "COMMIT cut": (lambda folder: truncate(folder / NEWER / COMMIT), "COMMIT is damaged"),
    "COMMIT empty": (lambda folder: (folder / NEWER / COMMIT).write_text(""), "COMMIT is damaged"),
}


def made(folder: Path, *steps: int) -> Path:
    for step in steps:
        make(folder, step)
    return folder


def damaged(folder: Path, damage: Damage) -> Path:
    """The newer of two."""
    made(folder, 100, 200)
    damage(folder)
    return folder


def test_a_damaged_newest_is_skipped_with_a_word(tmp_path: Path) -> None:
    found = of_all_ranks([damaged(tmp_path / name, damage) for name, (damage, _) in DAMAGES.items()])
    assert found == [(OLDER, [f"skipped FOLDER/{NEWER}: {fault}"]) for _, fault in DAMAGES.values()]


def test_other_traces_of_kills_and_hands(tmp_path: Path) -> None:
    cases: list[tuple[Path, tuple[str | None, list[str]]]] = []
    folder = made(tmp_path / "unfinished", 100)
    begin(folder, 200)
    cases.append((folder, (OLDER, [f"skipped FOLDER/{NEWER}.partial: its save was not finished"])))
    folder = made(tmp_path / "no pointer", 100, 200)
    (folder / LATEST).unlink()
    cases.append((folder, (NEWER, [f"FOLDER/latest is missing: {NEWER} is the newest good checkpoint"])))
    folder = made(tmp_path / "pointer to nothing", 100, 200)
    (folder / LATEST).write_bytes(b"../elsewhere\xff\n")
    cases.append((folder, (NEWER, [f"FOLDER/latest names '../elsewhere\ufffd': {NEWER} is the newest good checkpoint"])))
    folder = made(tmp_path / "killed before the pointer", 100, 200)
    (folder / LATEST).write_text(f"{OLDER}\n")
    cases.append((folder, (NEWER, [f"FOLDER/latest names {OLDER!r}: {NEWER} is the newest good checkpoint"])))
    folder = made(tmp_path / "an older one is damaged", 100, 200)
    (folder / OLDER / COMMIT).unlink()
    cases.append((folder, (NEWER, [])))
    folder = made(tmp_path / "the run went back", 200, 100)
    cases.append((folder, (OLDER, [])))
    folder = tmp_path / "the first was never finished"
    begin(folder, 100)
    cases.append((folder, (None, [f"skipped FOLDER/{OLDER}.partial: its save was not finished"])))
    cases.append((tmp_path / "nowhere", (None, [])))
    assert of_all_ranks([folder for folder, _ in cases]) == [expected for _, expected in cases]


def test_no_run_starts_anew_beside_its_checkpoints(tmp_path: Path) -> None:
    none_good = made(tmp_path / "none good", 100, 200, 300)
    flip(none_good / OLDER / "data")
    (none_good / NEWER / COMMIT).unlink()
    (none_good / "step-00000300/data").unlink()
    gone = made(tmp_path / "gone", 100)
    shutil.rmtree(gone / OLDER)
    newer_format = made(tmp_path / "newer format", 100, 200)
    (newer_format / NEWER / COMMIT).write_text('{"format": 3}')
    faults = ["step-00000300 (data is missing)", f"{OLDER} (data is damaged (its checksum differs))", f"{NEWER} (COMMIT is missing)"]
    what_to_do = "put a good one back, or start anew in another run_dir"
    assert of_all_ranks([none_good, gone, newer_format]) == [
        f"no good checkpoint in FOLDER: {', '.join(faults)}; {what_to_do}",
        f"no checkpoint in FOLDER, where latest names {OLDER!r}; {what_to_do}",
        f"FOLDER/{NEWER} has checkpoint format 3, this version reads 2: use a newer version, or another run_dir",
    ]


def opened(checkpoint: Path) -> str:
    try:
        return newest.open_good(checkpoint).path.name
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", [OLDER, NEWER])
def test_one_that_is_asked_for(tmp_path: Path, name: str) -> None:
    checkpoint = damaged(tmp_path, lambda folder: flip(folder / NEWER / "data")) / name
    said = {OLDER: OLDER, NEWER: f"{checkpoint}: data is damaged (its checksum differs): take another checkpoint"}
    assert run_ranks(2, opened, checkpoint) == [said[name]] * 2
