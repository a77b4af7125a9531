"""Which folders count as checkpoints, which is the latest, and which go."""

from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.errors import UserError


def make(folder: Path, step: int) -> Path:
    partial = commit.begin(folder, step)
    (partial / "data").write_text(f"data of {step}")
    return commit.commit(partial, step, {"data": commit.checksum(partial / "data")})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints"
    assert commit.latest(folder) is None
    assert make(folder, 100) == folder / "step-00000100"
    make(folder, 123456789)
    assert names(folder) == ["latest", "step-00000100", "step-123456789"]
    assert commit.latest(folder) == 123456789
    assert commit.find(folder, None) == folder / "step-123456789"
    assert commit.find(folder, 100) == folder / "step-00000100"
    content = commit.read_commit(folder / "step-00000100")
    assert (content.step, content.files["data"].size) == (100, 11)


def test_the_latest_is_the_last_written_not_the_highest(tmp_path: Path) -> None:
    make(tmp_path, 200)
    make(tmp_path, 0)
    assert commit.latest(tmp_path) == 0
    assert commit.find(tmp_path, None).name == "step-00000000"


@pytest.mark.parametrize("pointer", [b"step-00000300", b"", b"\xff\xfe", b"../elsewhere", None])
def test_a_pointer_to_nothing_means_the_highest(tmp_path: Path, pointer: bytes | None) -> None:
    make(tmp_path, 200)
    make(tmp_path, 100)
    if pointer is None:
        (tmp_path / commit.LATEST).unlink()
    else:
        (tmp_path / commit.LATEST).write_bytes(pointer)
    assert commit.latest(tmp_path) == 200


def test_what_was_never_committed_does_not_count(tmp_path: Path) -> None:
    make(tmp_path, 100)
    (commit.begin(tmp_path, 200) / commit.COMMIT).write_text("{}")
    (tmp_path / "step-00000300").mkdir()
    assert commit.committed_steps(tmp_path) == [100]
    assert commit.latest(tmp_path) == 100
    make(tmp_path, 400)
    assert names(tmp_path) == ["latest", "step-00000100", "step-00000300", "step-00000400"], "killed saves are cleared"


def test_a_step_again_replaces_it(tmp_path: Path) -> None:
    make(tmp_path, 100)
    (tmp_path / "step-00000100/mark").touch()
    make(tmp_path, 100)
    assert names(tmp_path) == ["latest", "step-00000100"]
    assert names(tmp_path / "step-00000100") == ["COMMIT", "data"]


@pytest.mark.parametrize(("keep", "kept"), [(1, [300, 900]), (2, [200, 300, 900]), (5, [100, 200, 300, 900])])
def test_old_ones_go(tmp_path: Path, keep: int, kept: list[int]) -> None:
    for step in (900, 100, 200, 300):
        make(tmp_path, step)
    commit.retain(tmp_path, 300, keep)
    assert commit.committed_steps(tmp_path) == kept, "900 is of another branch of the run"
    assert commit.latest(tmp_path) == 300
    assert not list(tmp_path.glob("*.partial"))


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^no checkpoint in {tmp_path}$"):
        commit.find(tmp_path, None)
    make(tmp_path, 100)
    make(tmp_path, 200)
    with pytest.raises(UserError, match=f"^no checkpoint of step 150 in {tmp_path}: there are 100, 200$"):
        commit.find(tmp_path, 150)


def test_a_file_that_rank_0_cannot_see(tmp_path: Path) -> None:
    partial = commit.begin(tmp_path, 100)
    with pytest.raises(UserError, match=r"cannot be seen from rank 0: .* must be on a file system that all nodes share"):
        commit.commit(partial, 100, {"__1_0.distcp": commit.FileSum(size=1, sha256="")})
    assert commit.latest(tmp_path) is None


def test_a_commit_of_another_format(tmp_path: Path) -> None:
    made = make(tmp_path, 100)
    content = commit.read_commit(made)
    (made / commit.COMMIT).write_text(content.model_copy(update={"format": 2}).model_dump_json())
    with pytest.raises(UserError, match=r"step-00000100 has checkpoint format 2, this version reads 1$"):
        commit.read_commit(made)
