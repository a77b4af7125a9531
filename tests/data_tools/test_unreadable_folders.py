"""A folder of a corpus that may not be read is told, not passed over with all that is in it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.sources.registry import source
from data_tools.splits import Split
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import forked, status_of
from tests.data_tools.test_webdataset_source import write_tar

NOBODY = 65534


def as_nobody(place: Path, work: Callable[[], object]) -> int:
    """The exit status of a child that does the work in a folder, as a user to whom modes of files apply."""

    def child() -> None:
        os.chdir(place)  # what lies above need not be readable, then
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    place.chmod(0o755)
    return status_of(forked(child))


def refused(name: str, annotation: str, folder: str) -> None:
    with pytest.raises(UserError, match=f"^cannot read the folder {folder}: Permission denied; make it readable, or take it away$"):
        list(source(name, Split.TRAIN).samples(Path(annotation), Path()))


@pytest.mark.parametrize(("name", "annotation"), [("webdataset", "corpus"), ("imagenet", "corpus"), ("imagenet", "names.txt")])
def test_a_folder_that_may_not_be_read(name: str, annotation: str, tmp_path: Path) -> None:
    """Whichever of its folders it is."""
    corpus = tmp_path / "corpus"
    for folder in ("n01", "n02"):
        (corpus / folder).mkdir(parents=True)
        (corpus / folder / "a.jpg").touch()
        write_tar(corpus / folder / "0.tar", [("1.jpg", b"a"), ("1.txt", b"b")])
    (tmp_path / "names.txt").write_text("corpus/n01 one\ncorpus/n02 two\n")
    assert list(source(name, Split.TRAIN).samples(tmp_path / annotation, tmp_path))
    (corpus / "n02").chmod(0)
    try:
        assert as_nobody(tmp_path, lambda: refused(name, annotation, "corpus/n02")) == 0
    finally:
        (corpus / "n02").chmod(0o755)


def test_a_corpus_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir(mode=0)
    try:
        assert as_nobody(tmp_path, lambda: refused("imagenet", "corpus", "corpus")) == 0
    finally:
        (tmp_path / "corpus").chmod(0o755)
