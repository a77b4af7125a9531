"""Readers of corpora's layouts, on real media in those layouts."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.sample import Fault, MediaPlace, Reason, Sample
from data_tools.sources.coco import CocoSource
from data_tools.sources.demo import DemoSource
from data_tools.sources.msrvtt import MsrvttSource
from data_tools.sources.registry import source
from data_tools.sources.text import TextSource
from data_tools.splits import Split
from data_tools.texts import corpus_texts
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.errors import UserError
from tests.data_tools.sharding import numbers_by_key, sharded
from tests.shared import SHARED, needs_shared


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown source 'msvrtt': did you mean 'msrvtt'"):
        source("msvrtt", Split.TRAIN)
    assert source("coco", Split.TEST) == CocoSource(Split.TEST)


def test_captions_of_no_image_are_counted(tmp_path: Path) -> None:
    annotations = [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": "a cat"}, {"image_id": 8, "caption": "a red cat"}]
    fields = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": annotations}
    (tmp_path / "captions.json").write_text(json.dumps(fields))
    kept, lost = source("coco", Split.TRAIN).samples(tmp_path / "captions.json", tmp_path)
    assert kept.fault is None and kept.record.captions == ("a dog",)
    assert lost.fault == Fault(reason=Reason.MISSING, detail="no image has the id 8") and len(lost.record.captions) == 2
    assert Sample.from_json(lost.to_json()) == lost


@needs_shared
def test_coco(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/image"
    report = sharded("coco", place / "captions.json", place / "images", tmp_path / "out")
    assert report.written == {"train/image_text": 44} and not report.left_out
    annotation = json.loads((place / "captions.json").read_text())
    manifest = Manifest.load(tmp_path / "out/train/image_text")
    numbers = numbers_by_key(manifest)
    for image in annotation["images"]:
        number = numbers[Path(image["file_name"]).stem]
        said = [caption["caption"].strip() for caption in annotation["annotations"] if caption["image_id"] == image["id"]]
        assert list(manifest.record(number).captions) == said
        assert manifest.media(number) == (place / "images" / image["file_name"]).read_bytes()
        assert manifest.entry(number).kind is MediaKind.IMAGE


@needs_shared
def test_msrvtt(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/video"
    report = sharded("msrvtt", place / "videodatainfo.json", place / "videos", tmp_path / "out")
    assert report.written == {"train/video_text": 9, "test/video_text": 3} and not report.left_out
    train = Manifest.load(tmp_path / "out/train/video_text")
    numbers = numbers_by_key(train)
    first = train.record(numbers["video0"])
    assert first.captions[1] == "a man celebrates his birthday on a video call"
    assert (first.questions[0].question, first.questions[0].answer) == ("what is the man wearing on his head", "hat")
    assert train.media(numbers["video6"]) == (place / "videos/video6.mkv").read_bytes()
    test = Manifest.load(tmp_path / "out/test/video_text")
    assert sorted(numbers_by_key(test)) == ["video10", "video11", "video9"]


def test_msrvtt_splits_and_question_files(tmp_path: Path) -> None:
    videos = [{"video_id": f"video{n}", "split": split} for n, split in enumerate(("train", "validate", "test"))]
    sentences = [{"video_id": f"video{n}", "caption": f"clip {n}"} for n in range(3)]
    (tmp_path / "videodatainfo.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (tmp_path / "train_qa.json").write_text(json.dumps([{"video_id": 0, "question": "a?", "answer": "b"}]))
    (tmp_path / "val_qa.json").write_text(json.dumps([{"video_id": 1, "question": "c?", "answer": "d"}]))
    samples = list(MsrvttSource().samples(tmp_path / "videodatainfo.json", tmp_path / "videos"))
    assert [sample.split for sample in samples] == [Split.TRAIN, Split.VALIDATION, Split.TEST]
    assert [[question.answer for question in sample.record.questions] for sample in samples] == [["b"], ["d"], []]
    assert samples[2].media == MediaPlace(path=tmp_path / "videos/video2.mp4")


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


def test_text_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n\0two\n", encoding="utf-8-sig")
    assert [sample.record.text for sample in TextSource(Split.TRAIN).samples(tmp_path / "lines.txt", tmp_path)] == ["one", "\0two"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_of_another_encoding(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n", encoding=encoding)
    for read in (lambda: TextSource(Split.TRAIN).samples(tmp_path / "lines.txt", tmp_path), lambda: corpus_texts([tmp_path / "lines.txt"])):
        with pytest.raises(UserError, match=r"lines\.txt is not UTF-8 text but UTF-16, it seems: convert it"):
            list(read())


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    fields = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [{"image_id": 7, "caption": "a dog"}]}
    (tmp_path / "captions.json").write_text(json.dumps(fields), encoding="utf-8-sig")
    (sample,) = source("coco", Split.TRAIN).samples(tmp_path / "captions.json", tmp_path)
    assert sample.record.captions == ("a dog",)


@pytest.mark.parametrize("reader", [CocoSource(Split.TRAIN), MsrvttSource()])
@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (b"{", "is not JSON"),
        (b"[]", "not in the layout"),
        (b"{}", "not in the layout"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "is not JSON"),
        (b"9" * 5000, "is not JSON"),
    ],
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


COCO_IMAGE = {"id": 1, "file_name": "1.jpg"}
COCO_CAPTION = {"image_id": 1, "caption": "a cat"}


@pytest.mark.parametrize(
    ("image", "caption", "told"),
    [
        ({}, {"caption": None}, "a caption of image 1 is None, not a text"),
        ({}, {"caption": 5}, "a caption of image 1 is 5, not a text"),
        ({}, {"caption": "half \ud800"}, "a caption of image 1 is .*not Unicode text"),
        ({"file_name": 7}, {}, "a file name is 7, not a text"),
        ({"file_name": "\ud800.jpg"}, {}, "not Unicode text"),
        ({"file_name": "a\0.jpg"}, {}, "not one inside --media"),
        ({"file_name": "../media/1.jpg"}, {}, "not one inside --media"),
        ({"file_name": "/media/1.jpg"}, {}, "not one inside --media"),
    ],
)
def test_coco_fields_that_cannot_be(tmp_path: Path, image: dict[str, Any], caption: dict[str, Any], told: str) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": [COCO_IMAGE | image], "annotations": [COCO_CAPTION | caption]}))
    with pytest.raises(UserError, match=rf"captions\.json is not in the layout of `coco` .*{told}"):
        list(CocoSource(Split.TRAIN).samples(path, tmp_path / "media"))


@pytest.mark.parametrize(
    ("video", "caption", "asked", "told"),
    [
        ({"video_id": 1}, {}, {}, "a video_id is 1, not a text"),
        ({"video_id": "../1"}, {}, {}, "not one inside --media"),
        ({"split": "val"}, {}, {}, "split is 'val', not one of train, validate, test"),
        ({}, {"caption": None}, {}, "a caption of video1 is None, not a text"),
        ({}, {}, {"answer": None}, "the answer of a question about video1 is None, not a text"),
    ],
)
def test_msrvtt_fields_that_cannot_be(
    tmp_path: Path, video: dict[str, Any], caption: dict[str, Any], asked: dict[str, Any], told: str
) -> None:
    videos, sentences = [{"video_id": "video1", "split": "train"} | video], [{"video_id": "video1", "caption": "a"} | caption]
    (tmp_path / "videos.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (tmp_path / "qa.json").write_text(json.dumps([{"video_id": 1, "question": "a?", "answer": "b"} | asked]))
    with pytest.raises(UserError, match=f"not in the layout of `msrvtt` .*{told}"):
        list(MsrvttSource().samples(tmp_path / "videos.json", tmp_path))


@pytest.mark.parametrize("field", ["file", "meaning", "captions"])
def test_demo_fields_that_cannot_be(tmp_path: Path, field: str) -> None:
    sample = {"stream": "image_text", "file": "1.jpg", "captions": ["a"], "questions": [], "attributes": {}, "meaning": "a"}
    (tmp_path / "train.jsonl").write_text(json.dumps(sample | {field: [5]}) + "\n")
    with pytest.raises(UserError, match=r"train\.jsonl is not in the layout of `demo`"):
        list(DemoSource().samples(tmp_path, tmp_path))
