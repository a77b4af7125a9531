"""Readers of corpora's layouts, on real media in those layouts."""

import json
from pathlib import Path

import pytest

from data_tools.shard import shard
from data_tools.sources.coco import CocoSource
from data_tools.sources.demo import DemoSource
from data_tools.sources.msrvtt import MsrvttSource
from data_tools.sources.registry import source
from data_tools.sources.text import TextSource
from data_tools.splits import Split
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.errors import UserError
from tests.shared import SHARED, needs_shared


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown source 'msvrtt': did you mean 'msrvtt'"):
        source("msvrtt", Split.TRAIN)
    assert source("coco", Split.TEST) == CocoSource(Split.TEST)


@needs_shared
def test_coco(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/image"
    report = shard(CocoSource(Split.TRAIN), place / "captions.json", place / "images", tmp_path / "out")
    assert report.written == {"train/image_text": 44} and not report.skipped
    annotation = json.loads((place / "captions.json").read_text())
    manifest = Manifest.load(tmp_path / "out/train/image_text")
    for number, image in enumerate(annotation["images"]):
        said = [caption["caption"].strip() for caption in annotation["annotations"] if caption["image_id"] == image["id"]]
        assert list(manifest.record(number).captions) == said
        assert manifest.media(number) == (place / "images" / image["file_name"]).read_bytes()
        assert manifest.entry(number).kind is MediaKind.IMAGE


@needs_shared
def test_msrvtt(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/video"
    report = shard(MsrvttSource(), place / "videodatainfo.json", place / "videos", tmp_path / "out")
    assert report.written == {"train/video_text": 9, "test/video_text": 3} and not report.skipped
    train = Manifest.load(tmp_path / "out/train/video_text")
    assert train.record(0).captions[1] == "a man celebrates his birthday on a video call"
    assert (train.record(0).questions[0].question, train.record(0).questions[0].answer) == ("what is the man wearing on his head", "hat")
    assert train.media(6) == (place / "videos/video6.mkv").read_bytes()
    test = Manifest.load(tmp_path / "out/test/video_text")
    assert [test.entry(i).key for i in range(3)] == [f"0000000{i}-video{9 + i}" for i in range(3)]


def test_msrvtt_splits_and_question_files(tmp_path: Path) -> None:
    videos = [{"video_id": f"video{n}", "split": split} for n, split in enumerate(("train", "validate", "test"))]
    sentences = [{"video_id": f"video{n}", "caption": f"clip {n}"} for n in range(3)]
    (tmp_path / "videodatainfo.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (tmp_path / "train_qa.json").write_text(json.dumps([{"video_id": 0, "question": "a?", "answer": "b"}]))
    (tmp_path / "val_qa.json").write_text(json.dumps([{"video_id": 1, "question": "c?", "answer": "d"}]))
    samples = list(MsrvttSource().samples(tmp_path / "videodatainfo.json", tmp_path / "videos"))
    assert [sample.split for sample in samples] == [Split.TRAIN, Split.VALIDATION, Split.TEST]
    assert [[question.answer for question in sample.record.questions] for sample in samples] == [["b"], ["d"], []]
    assert samples[2].media == tmp_path / "videos/video2.mp4"


def test_text(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes("one\n\n  two é \r\nthr\u2028ee\n".encode() + b"\xff four")
    samples = list(TextSource(Split.TEST).samples(tmp_path / "lines.txt", tmp_path))
    assert [(sample.key, sample.record.text) for sample in samples] == [
        ("line1", "one"),
        ("line3", "two é"),
        ("line4", "thr\u2028ee"),
        ("line5", "\ufffd four"),
    ]
    assert {sample.split for sample in samples} == {Split.TEST}


@pytest.mark.parametrize("reader", [CocoSource(Split.TRAIN), MsrvttSource()])
@pytest.mark.parametrize(
    ("contents", "told"), [(b"{", "is not JSON"), (b"[]", "not in the layout"), (b"{}", "not in the layout"), (b"\xff\xfe", "not UTF-8")]
)
def test_damaged_annotation(tmp_path: Path, reader: CocoSource | MsrvttSource, contents: bytes, told: str) -> None:
    path = tmp_path / "annotation.json"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=told):
        list(reader.samples(path, tmp_path))


def test_missing_annotation(tmp_path: Path) -> None:
    for reader in (CocoSource(Split.TRAIN), MsrvttSource(), TextSource(Split.TRAIN), DemoSource()):
        with pytest.raises(UserError, match=r"cannot read .*nowhere"):
            list(reader.samples(tmp_path / "nowhere", tmp_path))
