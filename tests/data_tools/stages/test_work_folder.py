"""The folder that a stage fills: whose it is, and that nothing in it is half-written."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.stages import work_folder
from data_tools.stages.part import Part
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.work_folder import WORK, WorkFolder
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import forked, mixed_corpus, probe_stage, probed, small_file_system, status_of, tree, wait_for


def test_begun_with_something_else(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "out", Part())
    with folder.begun({"fps": "3", "split": "train"}), folder.whole_file(folder.place / "file") as file:
        file.write(b"x")
    with folder.begun({"fps": "3", "split": "train"}):
        pass
    with (
        pytest.raises(UserError, match=r"begun with something else \(fps: 3 before, 5 now\)"),
        folder.begun({"fps": "5", "split": "train"}),
    ):
        pass
    with pytest.raises(UserError, match=r"something else \(fps: 3 before, not given now\)"), folder.begun({"split": "train"}):
        pass
    with pytest.raises(UserError, match=r"something else \(stage: not given before, filter now\)"), folder.begun({"stage": "filter"}):
        pass
    assert tree(tmp_path / "out") == {"file": b"x"}


def test_damaged_note_of_what_was_asked(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "out", Part())
    with folder.begun({}), folder.whole_file(folder.place / "file") as file:
        file.write(b"x")
    for damaged in ("{", "3"):
        (folder.work / "begun.json").write_text(damaged)
        with pytest.raises(UserError, match="damaged"), folder.begun({}):
            pass


def test_another_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="not this stage's"), WorkFolder(place, Part()).begun({}):
            pass
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"), WorkFolder(tmp_path / "file" / "out", Part()).begun({}):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_part_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another part may work beside it; a killed one is free again at once."""
    monkeypatch.setattr(work_folder, "_PATIENCE_S", 0.1)
    ready = tmp_path / "ready"

    def hold() -> None:
        with WorkFolder(tmp_path / "out", Part(index=1, count=2)).begun({}):
            ready.touch()
            signal.pause()

    holder = forked(hold)
    wait_for(ready.exists, "holder")
    first = WorkFolder(tmp_path / "out", Part(index=1, count=2))
    with pytest.raises(UserError, match=r"part 1/2 of .* is being written by another process"), first.begun({}):
        pass
    with WorkFolder(tmp_path / "out", Part(index=2, count=2)).begun({}):
        pass
    os.kill(holder, signal.SIGKILL)
    assert status_of(holder) == -signal.SIGKILL
    with first.begun({}):
        pass


def test_a_process_that_is_refused_leaves_the_other_s_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_folder, "_PATIENCE_S", 0.1)
    folder = WorkFolder(tmp_path / "out", Part())
    with folder.begun({}), folder.whole_file(folder.place / "file") as file:
        with pytest.raises(UserError, match="written by another process"), WorkFolder(tmp_path / "out", Part()).begun({}):
            pass
        file.write(b"whole")
    assert tree(folder.place) == {"file": b"whole"}


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "out", Part())

    def write_half() -> None:
        with folder.begun({}), folder.whole_file(folder.place / "a/b") as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(forked(write_half)) == -signal.SIGKILL
    assert tree(folder.place) == {} and list(folder.work.glob("part-*/*"))
    with folder.begun({}):
        assert not list(folder.work.glob("part-*/*"))
        with pytest.raises(ZeroDivisionError), folder.whole_file(folder.place / "a/b"):
            raise ZeroDivisionError
        assert tree(folder.place) == {} and not list(folder.work.glob("part-*/*"))
        with folder.whole_file(folder.place / "a/b") as file:
            file.write(b"whole")
    assert tree(folder.place) == {"a/b": b"whole"}


def test_what_is_refused_at_once_leaves_no_folder(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "out", Part())
    with pytest.raises(UserError, match="refused"), folder.begun({}):
        raise UserError("refused")
    assert not folder.place.exists()
    with folder.begun({}), folder.whole_file(folder.place / "file") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="refused"), folder.begun({}):
        raise UserError("refused")
    assert tree(folder.place) == {"file": b"x"}
    other = WorkFolder(tmp_path / "parts", Part(index=1, count=2))
    with other.begun({}), pytest.raises(UserError, match="refused"), WorkFolder(other.place, Part(index=2, count=2)).begun({}):
        raise UserError("refused")
    assert (other.place / WORK).exists()


def test_files_that_grow_no_further(tmp_path: Path) -> None:
    """The system refuses to write on, in the middle of a file."""
    corpus = mixed_corpus(tmp_path / "corpus")

    def refused() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(UserError, match=r"cannot write .*chunks/.*File too large"):
            run_stage(probe_stage(corpus), tmp_path / "out", Effort())

    assert status_of(forked(refused)) == 0
    assert not (tmp_path / "out/chunks").exists()
    assert tree(probed(corpus, tmp_path / "out")) == tree(probed(corpus, tmp_path / "undisturbed"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with small_file_system(tmp_path / "disk", "64k") as place:
        yield place


def test_no_space_left(tmp_path: Path, small_disk: Path) -> None:
    corpus = mixed_corpus(tmp_path / "corpus")
    (small_disk / "filler").write_bytes(bytes(52 << 10))
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        run_stage(probe_stage(corpus), small_disk / "out", Effort())
    whole = tree(probed(corpus, tmp_path / "undisturbed"))
    assert tree(small_disk / "out").items() < whole.items()
    (small_disk / "filler").unlink()
    assert tree(probed(corpus, small_disk / "out")) == whole
