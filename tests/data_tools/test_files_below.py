"""A folder that may not be looked into is told by whatever walks over it: passed over, its shards would count as verified."""

from pathlib import Path

import pytest

from data_tools.files_below import files_below, named
from data_tools.sources.base import files_of
from megatron_mplug2.errors import UserError
from tests.data.corpus import write_corpus
from tests.plain_user import as_plain_user, needs_plain_user

_LINE = "error: cannot read the folder {}: Permission denied; make it readable, or take it away\n"


@needs_plain_user
@pytest.mark.parametrize("words", [("verify",), ("report", "--out", "page.html"), ("tokenizer", "--out", "vocab.txt")])
def test_one_of_several_folders_that_cannot_be_read_is_told(words: tuple[str, ...], tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", texts=2, images=2, videos=1)
    closed = tmp_path / "corpus/image_text"
    closed.chmod(0)
    try:
        name, *options = words
        done = as_plain_user("data", name, tmp_path / "corpus", *(tmp_path / one if "." in one else one for one in options))
    finally:
        closed.chmod(0o755)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", _LINE.format(closed))


def test_files_are_sorted_and_places_that_are_none_are_told(tmp_path: Path) -> None:
    for name in ("b/x.txt", "a/deep/x.txt", "a/y.txt", ".x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_below(tmp_path, named("x.txt")) == [tmp_path / "a/deep/x.txt", tmp_path / "b/x.txt"]
    assert files_of(tmp_path) == [tmp_path / "a/deep/x.txt", tmp_path / "a/y.txt", tmp_path / "b/x.txt"]
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file or directory"):
        files_below(tmp_path / "nowhere", named("x.txt"))
    with pytest.raises(UserError, match=r"cannot read .*y\.txt: Not a directory"):
        files_below(tmp_path / "a/y.txt", named("x.txt"))
