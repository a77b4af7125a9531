"""A stage in one process and in parts; what it is given and what it refuses."""

import os
from pathlib import Path

import pytest

from data_tools.splits import Split
from data_tools.stages.listing import LISTING, read_listing
from data_tools.stages.listing_stage import Corpus, ListingStage
from data_tools.stages.part import Part
from data_tools.stages.probe import look_into
from data_tools.stages.stage import Effort, run_stage
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import faults, forked, image, jpeg, mixed_corpus, probe_stage, probed, status_of, tree, write_listing


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_corpus(tmp_path_factory.mktemp("stage") / "corpus")


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probed(corpus, tmp_path_factory.mktemp("stage") / "undisturbed")


def test_probe_finds_what_is_bad(undisturbed: Path) -> None:
    assert faults(undisturbed) == {"cut": "media file not readable", "empty": "media file not readable", "blank": "no caption or text"}
    looks = {sample.key: sample.look for sample in read_listing(undisturbed) if sample.look}
    assert len(looks) == 17
    assert looks["again"] == looks["picture1"] != looks["picture2"]


def test_parts_one_after_another(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    efforts = [Effort(part=Part(index=index, count=3), workers=2) for index in (2, 1, 3)]
    left = [run_stage(probe_stage(corpus), tmp_path / "out", effort) for effort in efforts]
    assert left == [5, 2, 0]
    assert tree(tmp_path / "out") == tree(undisturbed)


def test_parts_that_end_together(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    """All chunks are there; eight parts race for the last step."""
    probed(corpus, tmp_path / "out")
    for _ in range(3):
        (tmp_path / "out" / LISTING).unlink()
        parts = [Effort(part=Part(index=index, count=8)) for index in range(1, 9)]
        pids = [forked(lambda effort=effort: run_stage(probe_stage(corpus), tmp_path / "out", effort)) for effort in parts]  # type: ignore[misc]
        assert [status_of(pid) for pid in pids] == [0] * 8
        assert tree(tmp_path / "out") == tree(undisturbed)


def test_a_finished_folder_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    out = probed(corpus, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    os.remove(out / "chunks/000000.jsonl")
    assert run_stage(probe_stage(corpus), out, Effort()) == 0
    assert not (out / "chunks/000000.jsonl").exists()  # the folder is read as it is: nothing is looked into again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}.items() < before.items()
    with pytest.raises(UserError, match=r"cannot read .*000000\.jsonl"):
        list(read_listing(out))


@pytest.mark.parametrize("source", ["coco", "nothing", "listing"])
def test_refused_before_it_began(source: str, tmp_path: Path) -> None:
    corpus = Corpus(source=source, annotation=tmp_path / "none.json", media=tmp_path, split=Split.TRAIN)
    stage = ListingStage(name="probe", corpus=corpus, settings={}, look=look_into)
    with pytest.raises(UserError, match=r"none\.json|unknown source"):
        run_stage(stage, tmp_path / "out", Effort())
    assert os.listdir(tmp_path) == []


def test_a_corpus_without_samples(tmp_path: Path) -> None:
    empty = write_listing(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no sample in"):
        run_stage(probe_stage(empty), tmp_path / "out", Effort())
    assert os.listdir(tmp_path) == ["empty"]


def test_another_listing_at_the_same_place(tmp_path: Path) -> None:
    listing = write_listing(tmp_path / "listing", [image(tmp_path / "a.jpg", jpeg(1), "first")])
    probed(listing, tmp_path / "out")
    os.rename(listing, tmp_path / "old")
    write_listing(tmp_path / "listing", [image(tmp_path / "a.jpg", jpeg(1), "other")])
    with pytest.raises(UserError, match="listing sha256"):
        run_stage(probe_stage(listing), tmp_path / "out", Effort())


def test_a_damaged_listing(undisturbed: Path, corpus: Path, tmp_path: Path) -> None:
    out = probed(corpus, tmp_path / "out")
    chunk = out / "chunks/000001.jsonl"
    chunk.write_bytes(chunk.read_bytes().replace(b"picture", b"pikture", 1))
    with pytest.raises(UserError, match=r"000001\.jsonl is damaged"):
        list(read_listing(out))
    for damaged, message in ((b"{", "not readable"), (b'{"version": 9}', "another version"), (b'{"version": 2}', "not readable")):
        (out / LISTING).write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            list(read_listing(out))
