"""Which folders count as checkpoints, which is the latest, and which go."""

import os
from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import commit
from megatron_mplug2.checkpoint.commit_file import COMMIT, DamagedError, FileSum, checksum, read_commit
from megatron_mplug2.errors import UserError


def written(folder: Path, step: int) -> tuple[Path, dict[str, FileSum]]:
    """All but committed."""
    partial = commit.begin(folder, step)
    (partial / "data").write_text(f"data of {step}")
    return partial, {"data": checksum(partial / "data")}


def make(folder: Path, step: int) -> Path:
    partial, files = written(folder, step)
    return commit.commit(partial, step, files)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints"
    assert commit.latest(folder) is None
    assert make(folder, 100) == folder / "step-00000100"
    make(folder, 123456789)
    assert names(folder) == ["latest", "step-00000100", "step-123456789"]
    assert commit.latest(folder) == 123456789
    assert (folder / "latest").read_text() == "step-123456789\n"
    content = read_commit(folder / "step-00000100")
    assert (content.step, content.serial, content.files["data"].size) == (100, 1, 11)


def test_the_latest_is_the_last_written_not_the_highest(tmp_path: Path) -> None:
    make(tmp_path, 200)
    make(tmp_path, 100)
    assert commit.latest(tmp_path) == 100
    make(tmp_path, 150)
    assert [content.step for _, content in commit.by_age(tmp_path)] == [150, 100, 200]


def test_what_was_never_committed_does_not_count(tmp_path: Path) -> None:
    make(tmp_path, 100)
    (commit.begin(tmp_path, 200) / "data").touch()
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


@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [
        (1, 0, [300, 900]),
        (2, 0, [200, 300, 900]),
        (5, 0, [100, 200, 300, 900]),
        (1, 200, [200, 300, 900]),
        (1, 100, [100, 200, 300, 900]),
        (1, 300, [300, 900]),
    ],
)
def test_old_ones_go(tmp_path: Path, last: int, every: int, kept: list[int]) -> None:
    for step in (900, 100, 200, 300):
        make(tmp_path, step)
    commit.retain(tmp_path, 300, commit.Retention(last=last, every=every))
    assert commit.committed_steps(tmp_path) == kept, "900 is of another branch of the run"
    assert commit.latest(tmp_path) == 300
    assert not list(tmp_path.glob("*.partial"))


def test_the_best_one_stays(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        make(tmp_path, step)
    commit.retain(tmp_path, 400, commit.Retention(last=1, best=200))
    assert commit.committed_steps(tmp_path) == [200, 400]


@pytest.mark.parametrize("replacing", [False, True])
def test_a_kill_after_the_commit_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool) -> None:
    """Not even where the older one of the same step is set aside already."""
    if replacing:
        make(tmp_path, 100)
        (tmp_path / "step-00000100/data").write_text("damaged since")
    partial, files = written(tmp_path, 100)

    def killed(folder: Path, target: Path) -> None:
        if folder == partial:
            raise KeyboardInterrupt
        os.rename(folder, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        commit.commit(partial, 100, files)
    monkeypatch.undo()
    assert commit.committed_steps(tmp_path) == []
    commit.recover(tmp_path)
    assert commit.committed_steps(tmp_path) == [100]
    assert checksum(tmp_path / "step-00000100/data") == files["data"]


def test_a_file_that_rank_0_cannot_see(tmp_path: Path) -> None:
    partial = commit.begin(tmp_path, 100)
    with pytest.raises(UserError, match=r"cannot be seen from rank 0: .* must be on a file system that all nodes share"):
        commit.commit(partial, 100, {"__1_0.distcp": FileSum(size=1, sha256="")})
    assert commit.latest(tmp_path) is None


@pytest.mark.parametrize(("found", "said"), [(9, "use a newer version"), (1, "use an older version")])
def test_a_commit_of_another_format(tmp_path: Path, found: int, said: str) -> None:
    """Whatever else is in it."""
    made = make(tmp_path, 100)
    (made / COMMIT).write_text(f'{{"format": {found}, "compression": "zstd"}}')
    with pytest.raises(UserError, match=rf"step-00000100 has checkpoint format {found}, this version reads 2: {said}") as caught:
        read_commit(made)
    assert not isinstance(caught.value, DamagedError)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"format": "2"}', b'{"format": 2, "step": 2, "files": {"run.json": 3}}', b"[" * 100_000]
)
def test_a_damaged_commit(tmp_path: Path, content: bytes) -> None:
    made = make(tmp_path, 100)
    (made / COMMIT).write_bytes(content)
    with pytest.raises(DamagedError, match=r"COMMIT is damaged"):
        read_commit(made)
