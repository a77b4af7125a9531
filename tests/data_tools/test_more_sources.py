"""Readers of further corpora: small files in their real layouts, and real media in those layouts."""

import bz2
import csv
import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_tools.commands import app
from data_tools.sample import Sample
from data_tools.sources import base
from data_tools.sources.base import as_name, file_of_url
from data_tools.sources.registry import describe, source, summaries
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Question, Record, Region
from megatron_mplug2.errors import UserError
from tests.data_tools.sharding import numbers_by_key, sharded
from tests.shared import SHARED, needs_shared


def path_of(sample: Sample) -> Path | None:
    return sample.media.path if sample.media else None


def read(name: str, annotation: Path, contents: object, media: Path | None = None) -> list[Sample]:
    """What the source reads, in the validation split, from a file of these contents."""
    annotation.write_text(contents if isinstance(contents, str) else json.dumps(contents), encoding="utf-8")
    return list(source(name, Split.VALIDATION).samples(annotation, media or annotation.parent))


def captions(samples: list[Sample]) -> dict[str, tuple[str, ...]]:
    return {sample.key: sample.record.captions for sample in samples}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_karpathy(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    images = [
        {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a cat", "tokens": ["a", "cat"]}, {"raw": "it"}], "imgid": 0},
        {"filename": "1.jpg", "filepath": "val2014", "split": "restval", "sentences": [{"raw": "b"}], "imgid": 1},
        {"filename": "3.jpg", "filepath": "val2014", "split": "val", "sentences": [{"raw": "c"}], "imgid": 2},
        {"filename": "4.jpg", "split": "test", "sentences": [{"raw": "d"}], "imgid": 3},
    ]
    samples = read("karpathy", tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    assert [sample.split for sample in samples] == [Split.TRAIN, Split.TRAIN, Split.VALIDATION, Split.TEST]
    assert [path_of(sample) for sample in samples] == [tmp_path / name for name in ("1.jpg", "1.jpg", "val2014/3.jpg", "4.jpg")]
    assert samples[0].record.captions == ("a cat", "it")


def test_webvid(tmp_path: Path) -> None:
    for name in ("p/1.mp4", "1.mp4", "2.mp4", "c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = [f"{n},https://a/{name}.mp4,PT00H00M16S,p,{said}" for n, name, said in ((1, "c", '"a, ""b"""'), (2, "x", "two"), (3, "c", "3"))]
    rows.append("4,https://a/y.mp4,PT00H00M16S,p,four")
    contents = "videoid,contentUrl,duration,page_dir,name\r\n" + "\r\n".join(rows)
    samples = read("webvid", tmp_path / "results_2M_val.csv", contents)
    assert [path_of(sample) for sample in samples] == [tmp_path / name for name in ("p/1.mp4", "2.mp4", "c.mp4", "p/4.mp4")]
    assert captions(samples)["1"] == ('a, "b"',)
    assert {(sample.stream, sample.split) for sample in samples} == {(Task.VIDEO_TEXT, Split.VALIDATION)}


def test_a_long_caption_of_webvid(tmp_path: Path) -> None:
    """Of more than 128 KiB, Python's own limit; of more than a sample may have, it alone is left out."""
    said = ["a" * 200_000, "b" * 2_000_000, "c"]
    contents = "videoid,contentUrl,duration,page_dir,name\n" + "".join(
        f"{n},https://a/{n}.mp4,PT1S,p,{text}\n" for n, text in enumerate(said)
    )
    samples = read("webvid", tmp_path / "results_2M_val.csv", contents)
    assert [sample.record.captions for sample in samples] == [(text,) for text in said]


def test_albef_with_absolute_names(tmp_path: Path) -> None:
    """They say where the list was made; the longest end that is there counts."""
    (tmp_path / "images/train").mkdir(parents=True)
    for name in ("images/train/1.jpg", "1.jpg", "train.mp4"):
        (tmp_path / name).touch()
    rows = [{"image": "/export/share/images/train/1.jpg", "caption": "a"}, {"video_id": "/elsewhere/train.mp4", "caption": "b"}]
    samples = read("albef", tmp_path / "vg_caption.json", rows)
    assert [path_of(sample) for sample in samples] == [tmp_path / "images/train/1.jpg", tmp_path / "train.mp4"]
    for name in ("/export/2.jpg", "/export/../1.jpg", "/etc/passwd"):
        with pytest.raises(UserError, match=f"the file name '{name}' is not one inside --media"):
            read("albef", tmp_path / "vg_caption.json", [{"image": name, "caption": "a"}])


def test_conceptual(tmp_path: Path) -> None:
    contents = 'a "red" apple\thttps://a.org/x/apple.jpg?w=1\nhttps://a.org/pear.jpg\ta pear\n\nno name\thttps://a.org/\n'
    samples = read("conceptual", tmp_path / "cc.tsv", contents)
    assert captions(samples) == {"apple": ('a "red" apple',), "pear": ("a pear",), "row4": ("no name",)}
    assert path_of(samples[0]) == tmp_path / "apple.jpg" and samples[0].stream is Task.IMAGE_TEXT


def test_released(tmp_path: Path) -> None:
    (tmp_path / "b.avi").touch()
    contents = lines(
        {"video_id": "a", "caption": "one"},
        {"video_id": "b", "golden_captions": ["two", "three"]},
        {"video_id": "a", "question": "q?", "answer": "yes"},
        {"video_id": "tumblr_c", "caption": "four"},
        {"video_id": "a", "caption": "five"},
    )
    samples = read("released", tmp_path / "train.jsonl", contents)
    assert captions(samples) == {"a": ("one", "five"), "b": ("two", "three"), "tumblr_c": ("four",)}
    assert samples[0].record.questions == (Question(question="q?", answer="yes", kind=""),)
    assert [path_of(sample) for sample in samples] == [tmp_path / name for name in ("a.mp4", "b.avi", "tumblr_c.gif")]


def test_albef(tmp_path: Path) -> None:
    rows = [
        {"image": "train2014/1.jpg", "caption": "a", "image_id": "coco_1"},
        {"video_id": "video7", "caption": ["b", "c"]},
        {"image": "train2014/1.jpg", "caption": "d"},
        {"video_id": "video8.avi", "caption": "e"},
    ]
    samples = read("albef", tmp_path / "coco.json", rows)
    assert captions(samples) == {"1": ("a", "d"), "video7": ("b", "c"), "video8": ("e",)}
    assert [path_of(sample) for sample in samples] == [tmp_path / name for name in ("train2014/1.jpg", "video7.mp4", "video8.avi")]
    assert [sample.stream for sample in samples] == [Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.VIDEO_TEXT]


def test_visual_genome(tmp_path: Path) -> None:
    (tmp_path / "VG_100K_2").mkdir()
    (tmp_path / "VG_100K_2/8.jpg").touch()
    region = {"region_id": 1, "image_id": 7, "x": 1, "y": 2, "width": 3, "height": 4, "phrase": "a red car"}
    images = [{"id": 7, "regions": [region, region | {"phrase": "a tree"}]}, {"id": 8, "regions": [region]}]
    path = tmp_path / "region_descriptions.json"
    assert not any(sample.record.questions for sample in read("visual_genome", path, images))
    asked = {"qa_id": 1, "image_id": 7, "question": "What is red?", "answer": "The car.", "a_objects": [], "q_objects": []}
    (tmp_path / "question_answers.json").write_text(json.dumps([{"id": 7, "qas": [asked]}]))
    samples = read("visual_genome", path, images)
    assert captions(samples) == {"7": ("a red car", "a tree"), "8": ("a red car",)}
    assert [question.answer for question in samples[0].record.questions] == ["The car."] and not samples[1].record.questions
    assert [path_of(sample) for sample in samples] == [tmp_path / "7.jpg", tmp_path / "VG_100K_2/8.jpg"]
    assert samples[0].record.regions[1] == Region(box=(1.0, 2.0, 3.0, 4.0), phrases=("a tree",))
    (asking,) = read("visual_genome", tmp_path / "question_answers.json", [{"id": 7, "qas": [asked]}])
    assert asking.record == Record(questions=samples[0].record.questions, attributes={})
    (tmp_path / "question_answers.json").write_text('[{"id": 7}]')
    with pytest.raises(UserError, match=r"question_answers\.json is not in the layout of `visual_genome` \(KeyError: 'qas'\)"):
        read("visual_genome", path, images)


def test_sbu(tmp_path: Path) -> None:
    fields = {"image_urls": ["http://static.flickr.com/2723/43_b0.jpg"], "captions": ["A chair"], "user_ids": ["a"]}
    (sample,) = read("sbu", tmp_path / "sbu-captions-all.json", fields)
    assert (sample.key, path_of(sample), sample.record.captions) == ("43_b0", tmp_path / "43_b0.jpg", ("A chair",))


def test_c4(tmp_path: Path) -> None:
    row = {"text": "Beginners\nBBQ ", "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.org"}
    (tmp_path / "c4-train.00001.json").write_text(lines(row, row | {"text": " "}))
    (tmp_path / "c4-train.00000.json.gz").write_bytes(gzip.compress(lines(row | {"text": "first"}).encode()))
    samples = list(source("c4", Split.TRAIN).samples(tmp_path, tmp_path))
    assert [sample.record.text for sample in samples] == ["first", "Beginners\nBBQ"]
    assert {(sample.stream, sample.media) for sample in samples} == {(Task.TEXT, None)}
    (tmp_path / "c4-train.00000.json.gz").write_bytes(gzip.compress(lines(row).encode())[:-9])
    with pytest.raises(UserError, match=r"cannot read the annotation .*00000\.json\.gz: Compressed file ended"):
        list(source("c4", Split.TRAIN).samples(tmp_path, tmp_path))


def test_wikiextractor(tmp_path: Path) -> None:
    block = '<doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="A "b" c">\nA\n\nA is <b.\n</doc>\n'
    row = {"id": "13", "revid": "1", "url": "https://en.wikipedia.org/wiki?curid=13", "title": "B", "text": "B is."}
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA/wiki_00").write_text(block + '<doc id="14" url="u" title="t">\n\n</doc>\n')
    (tmp_path / "AA/wiki_01.bz2").write_bytes(bz2.compress(lines(row, row | {"text": ""}).encode()))
    samples = list(source("wikiextractor", Split.TRAIN).samples(tmp_path, tmp_path))
    assert [(sample.key, sample.record.text) for sample in samples] == [("12", "A\n\nA is <b."), ("13", "B is.")]


def test_a_pictures_name_of_two_urls(tmp_path: Path) -> None:
    again = "a\thttps://a.org/1.jpg\nb\thttps://a.org/1.jpg\n"
    assert len(read("conceptual", tmp_path / "cc.tsv", again)) == 2
    with pytest.raises(UserError, match=r"the URL in row 3 ends in '1\.jpg' as one before it does.*`webdataset`"):
        read("conceptual", tmp_path / "cc.tsv", again + "c\thttps://b.org/1.jpg\n")
    with pytest.raises(UserError, match=r"the URL in image_urls\[1\] ends in '1\.jpg'"):
        read("sbu", tmp_path / "sbu.json", {"image_urls": ["http://a/1.jpg", "http://b/1.jpg"], "captions": ["a", "b"]})


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\0b", "a\ud800", 7, None])
def test_hostile_names(name: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_name(name)


@needs_shared
def test_real_conceptual(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/image"
    report = sharded("conceptual", place / "cc3m.tsv", place / "images", tmp_path / "out")
    assert report.written == {"train/image_text": 44} and not report.left_out
    manifest = Manifest.load(tmp_path / "out/train/image_text")
    numbers = numbers_by_key(manifest)
    for row in (place / "cc3m.tsv").read_text().splitlines():
        caption, url = row.split("\t")
        number = numbers[Path(url).stem]
        assert manifest.record(number).captions == (caption,)
        assert manifest.media(number) == (place / url.removeprefix("file:///")).read_bytes()


@needs_shared
def test_real_webvid(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/video"
    report = sharded("webvid", place / "webvid.csv", place / "videos", tmp_path / "out", Split.TEST)
    assert report.written == {"test/video_text": 12} and not report.left_out
    manifest = Manifest.load(tmp_path / "out/test/video_text")
    with (place / "webvid.csv").open(newline="") as file:
        numbers = numbers_by_key(manifest)
        for row in csv.DictReader(file):
            number = numbers[row["videoid"]]
            assert manifest.record(number).captions == (row["name"],)
            assert manifest.media(number) == (place / "videos" / row["contentUrl"].removeprefix("file:///")).read_bytes()


WRONG = {
    "karpathy": ['{"annotations": []}', '{"images": [{"filename": "1.jpg", "split": "dev", "sentences": []}]}'],
    "webvid": ["a,b\n1,2\n", "videoid,contentUrl,duration,page_dir,name\n1,u\n", "videoid,contentUrl,duration,page_dir,name\n1,u,d,..,n\n"],
    "conceptual": ["a cat\n", "a\tb\n", "a\tb\thttps://a/b.jpg\n", "a\thttps://a/b\0.jpg\n"],
    "released": [
        "{",
        "[]",
        '{"video_id": 1}',
        '{"video_id": "a"}',
        '{"video_id": "a", "question": "b?"}',
        '{"video_id": "../a", "caption": "b"}',
    ],
    "albef": ["{}", '[{"caption": "a"}]', '[{"image": "/1.jpg", "caption": "a"}]', '[{"image": "1.jpg", "caption": [5]}]'],
    "visual_genome": [
        json.dumps([{"id": 7, "regions": [{"phrase": "a", "x": 10**400, "y": 1, "width": 1, "height": 1}]}]),
        "{",
        '{"a": 1}',
        '[{"id": "../7", "regions": []}]',
        '[{"id": 7, "regions": [{"phrase": null, "x": 1, "y": 1, "width": 1, "height": 1}]}]',
        '[{"id": 7, "regions": [{"phrase": "a"}]}]',
    ],
    "sbu": ["[]", '{"image_urls": ["a"], "captions": []}', '{"image_urls": [5], "captions": ["a"]}'],
    "c4": ["[" * 100_000, "text", '{"url": "a"}', '{"text": 5}', '{"text": "\\ud800"}'],
    "wikiextractor": ["text", '{"id": 5, "text": "a"}', '<doc id="1">\na\n', '<doc id="1">\na\n<doc id="2">\n</doc>\n', "{" * 9],
}


@pytest.mark.parametrize(("name", "contents"), [(name, contents) for name, many in WRONG.items() for contents in many])
def test_wrong_layout_is_one_line(tmp_path: Path, name: str, contents: str) -> None:
    with pytest.raises(UserError) as raised:
        read(name, tmp_path / "annotation", contents)
    told = str(raised.value)
    assert str(tmp_path / "annotation") in told and "\n" not in told
    assert f"not in the layout of `{name}`" in told or "is not JSON" in told


@pytest.mark.parametrize("name", WRONG)
def test_missing_or_not_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        list(source(name, Split.TRAIN).samples(tmp_path / "nowhere", tmp_path))
    (tmp_path / "annotation").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="annotation is not UTF-8 text"):
        list(source(name, Split.TRAIN).samples(tmp_path / "annotation", tmp_path))


def test_a_name_that_is_too_long_is_a_missing_file(tmp_path: Path) -> None:
    (sample,) = read("released", tmp_path / "train.jsonl", lines({"video_id": "a" * 5000, "caption": "b"}))
    assert path_of(sample) == tmp_path / f"{'a' * 5000}.mp4"


@pytest.mark.parametrize("url", ["https://a.org/", "https://a.org/..", "https://a.org/?a=b.jpg"])
def test_a_url_without_a_name(tmp_path: Path, url: str) -> None:
    assert file_of_url(tmp_path, url, "row7") == tmp_path / "row7"


def test_sources_are_listed_and_shown() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["sources"]).stdout.splitlines()
    assert "pictures with captions:" in listed and "texts:" in listed
    told = [line for line in listed if line.startswith("  ")]
    modules = {path.stem for path in (Path(base.__file__).parent).glob("*.py") if "def samples(self" in path.read_text()}
    assert sorted(line.split(":")[0].strip() for line in told) == sorted(modules - {"base"})
    assert all(line.endswith(".") for line in told) and len(told) + len(summaries()) == len(listed)
    assert runner.invoke(app, ["sources", "webvid"]).stdout == describe("webvid") + "\n"
    unknown = runner.invoke(app, ["sources", "webvit"]).exception
    assert isinstance(unknown, UserError) and "did you mean 'webvid'" in str(unknown)
