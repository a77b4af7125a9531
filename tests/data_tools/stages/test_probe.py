"""`probe` over files that are not as files should be, and over names as they are found."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.splits import Split
from data_tools.stages.listing import read_listing
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.plan import Packing
from data_tools.stages.probe import stripped
from data_tools.stages.shard import Report, shard
from data_tools.stages.stage import Effort
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Question, Record, Region
from tests.data_tools.sharding import sharded
from tests.data_tools.stages.corpora import image, jpeg, probed, write_listing


def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would wait for a writer, /dev/zero never ends."""
    good = image(tmp_path / "good.jpg", jpeg(0))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    places = [tmp_path / name for name in ("pipe.jpg", "zero.jpg", "folder.jpg")]
    bad = [replace(good, key=place.stem, media=replace(good.media, path=place)) for place in places if good.media]
    found = read_listing(probed(write_listing(tmp_path / "listing", [good, *bad]), tmp_path / "out"))
    told = {sample.key: f"{sample.fault.reason}: {sample.fault.detail}" for sample in found if sample.fault}
    assert told == dict.fromkeys(("pipe", "zero", "folder"), "media file not readable: not a plain file")


def test_texts_without_anything_to_be_seen_are_blank() -> None:
    unseen = "\u200b \ufeff\u200d"
    question, region = Question(question="what ?", answer="red"), Region(box=(0.0, 0.0, 1.0, 1.0), phrases=(unseen, " it"))
    record = Record(
        captions=(unseen, " a red square\u200b ", "", "\u200d"),
        questions=(question, replace(question, answer=unseen), replace(question, question=unseen)),
        regions=(region, replace(region, phrases=(unseen,))),
        text=unseen,
        second_text="\ufeff",
        label="\u200b",
        attributes={},
    )
    assert stripped(record) == Record(
        captions=("a red square\u200b",), questions=(question,), regions=(replace(region, phrases=("it",)),), attributes={}
    )


def test_media_in_an_annotation_with_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some layouts the annotation is the folder or the tar of the media."""
    (tmp_path / "classes/cat").mkdir(parents=True)
    (tmp_path / "classes/cat/1.jpg").write_bytes(jpeg(1))
    monkeypatch.chdir(tmp_path)
    assert sharded("imagenet", Path("classes"), Path(), Path("out")).written == {"train/image_text": 1}


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    (folder / "cat").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/cat/na\xefve.jpg")).write_bytes(jpeg(2))
    corpus, out = Corpus(source="imagenet", annotation=folder, media=Path(), split=Split.TRAIN), folder.with_name(f"{folder.name} shards")
    for _ in range(2):  # to its end, and found finished
        assert shard(corpus, out, Packing(), Effort()) == 0
    assert Report.load(out).written == {"train/image_text": 1}
    assert Manifest.load(out / "train/image_text").media(0) == jpeg(2)
