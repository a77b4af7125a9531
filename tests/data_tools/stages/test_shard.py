"""Shards: what is in them and in which order, what bounds a tar, and what the stage refuses to begin."""

import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.demo.make import make_demo
from data_tools.sample import Look, MediaPlace
from data_tools.splits import Split
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing, plan_tars
from data_tools.stages.shard import Report, shard
from data_tools.stages.stage import Effort
from data_tools.verify import verify
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import Manifest, content_id
from megatron_mplug2.data.record import Question, Record
from megatron_mplug2.errors import UserError
from tests.data_tools.sharding import numbers_by_key, sharded
from tests.data_tools.stages.corpora import (
    image,
    jpeg,
    listed,
    noise_clip,
    packed,
    pictures,
    probed,
    text,
    tree,
    video,
    write_listing,
)
from tests.data_tools.stages.test_commands import data
from tests.data_tools.test_demo import SMALL, lines


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    make_demo(folder, 0, SMALL)
    return folder


@pytest.fixture(scope="module")
def whole(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    assert sharded("demo", demo, demo, out).left_out == {}
    return out


def members(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        return file.getnames()


def test_round_trip(demo: Path, whole: Path) -> None:
    """Every sample once, with its own media, texts, meaning and facts."""
    for split in Split:
        samples = lines(demo, split)
        for stream in (Task.VIDEO_TEXT, Task.IMAGE_TEXT):
            manifest = Manifest.load(whole / split / stream)
            manifest.check_files()
            numbers = numbers_by_key(manifest)
            mine = [sample for sample in samples if sample["stream"] == stream]
            assert len(numbers) == len(manifest) == len(mine)
            for sample in mine:
                number = numbers[Path(sample["file"]).stem]
                assert manifest.media(number) == (demo / sample["file"]).read_bytes()
                assert manifest.record(number).captions == tuple(sample["captions"])
                assert [q.answer for q in manifest.record(number).questions] == [q["answer"] for q in sample["questions"]]
                assert manifest.entry(number).meaning_id == content_id("meaning", sample["meaning"].encode())
                assert (manifest.facts(number).width, manifest.facts(number).frames) == (64, 8 if stream is Task.VIDEO_TEXT else 1)
        documents = Manifest.load(whole / split / Task.TEXT)
        assert sorted(documents.record(i).text for i in range(5)) == sorted((demo / f"{split}.txt").read_text().splitlines())
    assert verify(whole) == []


def test_the_order_is_shuffled_by_the_seed_alone(demo: Path, whole: Path, tmp_path: Path) -> None:
    sharded("demo", demo, demo, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(whole)
    sharded("demo", demo, demo, tmp_path / "other", packing=Packing(seed=1))
    orders = [list(numbers_by_key(Manifest.load(out / "train/video_text"))) for out in (whole, tmp_path / "other")]
    assert orders[0] != orders[1] != sorted(orders[0]) != orders[0]
    assert sorted(orders[0]) == sorted(orders[1])


def test_a_tar_as_others_read_it(tmp_path: Path) -> None:
    """USTAR: plain files, nobody's, of no time."""
    clip = replace(video(tmp_path / "clip.MP4", noise_clip(0, frames=3)), meaning="noise")
    assert packed(listed(tmp_path, clip), tmp_path / "out") == 0
    with tarfile.open(tmp_path / "out/train/video_text/000000.tar") as tar:
        found = tar.getmembers()
        texts = tar.extractfile(found[0])
        assert texts is not None
        said = json.loads(texts.read())
    assert [member.name for member in found] == ["00000000-clip.json", "00000000-clip.mp4"]
    assert {(member.type, member.mtime, member.uid, member.uname) for member in found} == {(tarfile.REGTYPE, 0, 0, "")}
    assert (said["captions"], said["stream"], said["meaning"]) == (["a picture of it"], "video_text", "noise")


def test_hostile_keys(tmp_path: Path) -> None:
    """The same key twice, too."""
    keys = ["../x", "/etc/passwd", "é" * 9, "a.b/c", "k" * 500, "", "\n\x1b", "k" * 500]
    packed(listed(tmp_path, *(replace(sample, key=keys[number]) for number, sample in enumerate(pictures(tmp_path, 8)))), tmp_path / "out")
    names = members(tmp_path / "out/train/image_text/000000.tar")
    assert len(set(names)) == 2 * len(keys)
    assert all(re.fullmatch(r"0000000[0-7]-[A-Za-z0-9_-]*\.(jpg|json)", name) and len(name) <= 69 for name in names)
    assert verify(tmp_path / "out") == []


def test_a_pair_of_pictures(tmp_path: Path) -> None:
    first, second = pictures(tmp_path, 2)
    packed(listed(tmp_path, replace(first, second=second.media)), tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out/train/image_text")
    assert (manifest.media(0), manifest.second_media(0)) == (jpeg(0), jpeg(1))
    names = members(tmp_path / "out/train/image_text/000000.tar")
    assert [name.partition(".")[2] for name in names] == ["json", "jpg", "second.jpg"]
    assert verify(tmp_path / "out") == []


def test_tars_are_bounded_by_size_and_count(tmp_path: Path) -> None:
    sizes = [100_000, 400_000, 1_500_000, 300_000, 600_000, 90_000, 20_000]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number) + bytes(size))
    samples = [image(tmp_path / f"{number}.jpg", (tmp_path / f"{number}.jpg").read_bytes()) for number in range(len(sizes))]
    listing = listed(tmp_path, *samples)
    packed(listing, tmp_path / "size", Packing(shard_mb=1))
    tars = sorted((tmp_path / "size/train/image_text").glob("*.tar"))
    assert 3 <= len(tars) <= 6
    large = [tar for tar in tars if tar.stat().st_size > 1 << 20]
    assert len(large) == 1 and len(members(large[0])) == 2  # the sample that fits into none
    packed(listing, tmp_path / "count", Packing(shard_samples=3))
    counts = [len(members(tar)) // 2 for tar in sorted((tmp_path / "count/train/image_text").glob("*.tar"))]
    assert counts == [3, 3, 1]
    small, large_tars = (Manifest.load(tmp_path / name / "train/image_text") for name in ("size", "count"))
    assert [small.entry(i) for i in range(7)] == [large_tars.entry(i) for i in range(7)]
    assert verify(tmp_path / "size") == verify(tmp_path / "count") == []


def test_a_plan_takes_few_bytes_a_sample(tmp_path: Path) -> None:
    """Each sample of a large listing in one tar, once, at its place."""
    look = Look(facts=None, size=0, media_id=1, look_hash=0)
    samples = [replace(text(f"t{number}", f"text {number}"), look=look) for number in range(3000)]
    listing = write_listing(tmp_path / "listing", samples, chunk=128)
    plans = list(plan_tars(listing, Packing(shard_samples=700)))
    assert [len(plan.chunks) for plan in plans] == [700, 700, 700, 700, 200]
    assert [plan.first for plan in plans] == [0, 700, 1400, 2100, 2800]
    assert sum(plan.chunks.nbytes + plan.offsets.nbytes for plan in plans) == 12 * 3000
    keys = [sample.key for plan in plans for sample in plan.samples(listing)]
    assert sorted(keys) == sorted(sample.key for sample in samples)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """By this stage's probe and by all that were before."""
    good, bad = pictures(tmp_path, 2), image(tmp_path / "bad.jpg", b"garbage")
    silent = image(tmp_path / "silent.jpg", jpeg(7), " ")
    assert packed(listed(tmp_path, *good, bad, silent), tmp_path / "out") == 0
    report = Report.load(tmp_path / "out")
    assert report == Report(written={"train/image_text": 2}, left_out={"media file not readable": 1, "no caption or text": 1})


def test_samples_without_a_caption_are_told(tmp_path: Path) -> None:
    """Questions alone are enough for finetuning, and so for a shard."""
    asked = Record(questions=(Question(question="what ?", answer="a dog"),), attributes={})
    quiz = replace(image(tmp_path / "quiz.jpg", jpeg(8)), record=asked)
    listing = probed(write_listing(tmp_path / "listing", [*pictures(tmp_path, 2), quiz, text("words", "some words")]), tmp_path / "probed")
    done = data("shard", "listing", listing, "--out", tmp_path / "out")
    told = "train/image_text: 1 x no caption; finetuning takes these, pretraining puts others in their place"
    assert done.stdout.splitlines() == ["train/text: 1 samples", "train/image_text: 3 samples", told]
    assert Report.load(tmp_path / "out").without_caption == {"train/image_text": 1}


def test_no_sample_is_left(tmp_path: Path) -> None:
    listing = listed(tmp_path, image(tmp_path / "bad.jpg", b"garbage"))
    with pytest.raises(UserError, match=r"no usable sample .*1 x media file not readable"):
        packed(listing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_needs_a_listing(demo: Path, tmp_path: Path) -> None:
    corpus = Corpus(source="demo", annotation=demo, media=demo, split=Split.TRAIN)
    with pytest.raises(UserError, match=r"run `mplug2 data probe demo \.\.\. --out LISTING` first"):
        shard(corpus, tmp_path / "out", Packing(), Effort(part=Part(index=1, count=2)))
    assert not (tmp_path / "out").exists()


def test_another_corpus_or_packing_is_refused(demo: Path, whole: Path, tmp_path: Path) -> None:
    before = tree(whole)
    with pytest.raises(UserError, match="seed: 0 before, 1 now"):
        sharded("demo", demo, demo, whole, packing=Packing(seed=1))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not this stage's"):
        sharded("demo", demo, demo, tmp_path)
    assert tree(whole) == before and os.listdir(tmp_path) == ["mine.txt"]


def test_media_inside_another_file(tmp_path: Path) -> None:
    """As the members of a tar are."""
    (tmp_path / "many.bin").write_bytes(b"before" + jpeg(5) + b"after")
    place = MediaPlace(path=tmp_path / "many.bin", offset=6, size=len(jpeg(5)), suffix=".jpeg")
    sample = replace(pictures(tmp_path, 1)[0], media=place)
    packed(listed(tmp_path, sample), tmp_path / "out")
    assert Manifest.load(tmp_path / "out/train/image_text").media(0) == jpeg(5)


def test_the_commands(tmp_path: Path) -> None:
    """Parts tell what is missing still, a finished folder is left as it is, and an index is made again once its manifest is gone."""
    listing, out = listed(tmp_path, *pictures(tmp_path, 3), image(tmp_path / "bad.jpg", b"")), tmp_path / "out"
    words = ("shard", "listing", listing, "--out", out, "--shard-samples", 1, "--workers", 2)
    assert data(*words, "--part", "2/2").stdout == f"part 2/2 of {out} is done; 2 tars of other parts are not there yet\n"
    lines = ["train/image_text: 3 samples", f"left out: 1 x media file not readable (see {listing})"]
    assert data(*words, "--part", "1/2").stdout.splitlines() == lines
    before = tree(out)
    assert data(*words).stdout.splitlines() == [f"{out} was finished before: nothing is done again", *lines]
    folder = out / "train/image_text"
    assert data("index", folder).stdout == f"{folder}/manifest.json is there already; delete it to make it anew\n"
    (folder / "manifest.json").unlink()
    assert data("index", folder, "--part", "1/2").stdout == f"part 1/2 of {folder} is done; 1 tars of other parts are not there yet\n"
    assert data("index", folder, "--part", "2/2").stdout == f"{folder}: 3 samples\n"
    assert {name: content for name, content in tree(out).items() if ".work-index" not in name} == before
