"""Sharding, checking and what happens to bad samples and to killed runs, with real files and processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_tools.demo.make import make_demo
from data_tools.sample import Reason
from data_tools.shard import shard
from data_tools.sources.coco import CocoSource
from data_tools.sources.demo import DemoSource
from data_tools.sources.text import TextSource
from data_tools.splits import Split
from data_tools.verify import verify
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.decode import FULL_VIEW, decode_video
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.errors import UserError
from tests.data.media import encoded
from tests.data_tools.test_demo import SMALL, files, lines


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    make_demo(folder, 0, SMALL)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    shard(DemoSource(), corpus, corpus, out)
    return out


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def test_round_trip(corpus: Path, whole: Path) -> None:
    for split in Split:
        for stream, count in ((Task.VIDEO_TEXT, 15), (Task.IMAGE_TEXT, 6)):
            manifest = Manifest.load(whole / split / stream)
            manifest.check_files()
            samples = [sample for sample in lines(corpus, split) if sample["stream"] == stream]
            assert len(manifest) == len(samples) == count
            for number, sample in enumerate(samples):
                assert manifest.media(number) == (corpus / sample["file"]).read_bytes()
                assert manifest.record(number).captions == tuple(sample["captions"])
                assert manifest.record(number).attributes == sample["attributes"]
                assert [q.answer for q in manifest.record(number).questions] == [q["answer"] for q in sample["questions"]]
            same = [manifest.entry(i).meaning_id for i in range(count)]
            assert len(set(same)) == len({sample["meaning"] for sample in samples})
        documents = Manifest.load(whole / split / Task.TEXT)
        assert [documents.record(i).text for i in range(5)] == (corpus / f"{split}.txt").read_text().splitlines()
    assert decode_video(Manifest.load(whole / "test/video_text").media(0), 4, 32, FULL_VIEW, None).shape == (3, 4, 32, 32)


def test_same_corpus_same_bytes(corpus: Path, whole: Path, tmp_path: Path) -> None:
    shard(DemoSource(), corpus, corpus, tmp_path / "again")
    assert files(tmp_path / "again") == files(whole)


def test_out_is_taken(corpus: Path, shards: Path) -> None:
    before = files(shards)
    with pytest.raises(UserError, match="exists already"):
        shard(DemoSource(), corpus, corpus, shards)
    assert files(shards) == before


def test_verify_finds_nothing_in_whole_shards(whole: Path) -> None:
    assert verify(whole) == []
    assert verify(whole / "test/text") == []


def test_verify_finds_truncation(shards: Path) -> None:
    tar = shards / "train/video_text/000000.tar"
    size = tar.stat().st_size
    os.truncate(tar, size // 2)
    faults = verify(shards)
    assert faults[0] == f"{tar}: {size // 2} bytes instead of {size}"
    assert len(faults) > 10 and all(str(tar) in fault for fault in faults)
    assert any("00000014" in fault and "cut off" in fault for fault in faults)
    assert not any("00000000" in fault for fault in faults)


@pytest.mark.parametrize("part", ["media", "record"])
def test_verify_finds_a_flipped_bit(shards: Path, part: str) -> None:
    folder = shards / "train/video_text"
    row = np.load(folder / "index.npy")[7]
    tar = bytearray((folder / "000000.tar").read_bytes())
    tar[int(row[f"{part}_offset"]) + int(row[f"{part}_size"]) // 2] ^= 4
    (folder / "000000.tar").write_bytes(tar)
    what = "media" if part == "media" else "texts"
    assert verify(shards) == [f"{folder / '000000.tar'}: {row['key'].decode()}: {what} damaged or cut off"]


def test_verify_finds_every_flipped_bit(shards: Path) -> None:
    """Also in headers, padding, index and manifest."""
    rng = np.random.default_rng(0)
    for path in sorted(shards.glob("test/*/*")):
        whole = path.read_bytes()
        for _ in range(5):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            assert verify(shards) or (path.name == "manifest.json" and json.loads(damaged) == json.loads(whole)), path
        path.write_bytes(whole)
    assert verify(shards) == []


def test_verify_finds_missing_and_strange_files(shards: Path) -> None:
    folder = shards / "train/text"
    (folder / "000000.tar").rename(folder / "000001.tar")
    assert verify(shards) == [f"{folder}/000001.tar: not in manifest.json", f"{folder}/000000.tar: missing"]
    (folder / "index.npy").unlink()
    assert verify(shards) == [f"{folder}/index.npy: No such file or directory"]
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        verify(folder.parent.parent / "nowhere")


def test_verify_finds_missing_members(shards: Path) -> None:
    folder = shards / "train/text"
    row = np.load(folder / "index.npy")[2]
    tar = bytearray((folder / "000000.tar").read_bytes())
    header = int(row["record_offset"]) - 512
    tar[header : header + 8] = b"renamed-"
    (folder / "000000.tar").write_bytes(tar)
    faults = verify(shards)
    assert [fault.rpartition("tar: ")[2] for fault in faults] == [f"0000000{n}-line{n}: missing from the tar" for n in (2, 3, 4)]


def bad_coco(folder: Path) -> Path:
    """Eight pictures, two of them usable."""
    rng = np.random.default_rng(0)
    picture = encoded(rng.integers(0, 255, (32, 32, 3), np.uint8), "JPEG")
    contents = {1: picture, 2: picture[:400], 3: b"", 4: b"text", 5: picture, 6: picture, 8: picture}
    for number, data in contents.items():
        (folder / f"{number}.jpg").write_bytes(data)
    captions = {1: ["good", " "], 2: ["cut"], 3: ["empty"], 4: ["text"], 5: ["  "], 7: ["missing"], 8: ["  good too "]}
    annotation = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 9)],
        "annotations": [{"image_id": number, "caption": caption} for number, said in captions.items() for caption in said],
    }
    path = folder / "captions.json"
    path.write_text(json.dumps(annotation))
    return path


def test_bad_samples_are_left_out_and_reported(tmp_path: Path) -> None:
    report = shard(CocoSource(Split.VALIDATION), bad_coco(tmp_path), tmp_path, tmp_path / "out")
    assert report.written == {"validation/image_text": 2}
    assert report.faults == {Reason.UNREADABLE: 3, Reason.NO_TEXT: 2, Reason.MISSING: 1}
    manifest = Manifest.load(tmp_path / "out/validation/image_text")
    assert [manifest.record(i).captions for i in range(2)] == [("good",), ("good too",)]
    assert manifest.entry(0).media_id == manifest.entry(1).media_id  # the same picture twice
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert told["faults"] == {"media file not readable": 3, "no caption or text": 2, "media file missing": 1}
    assert [sample["key"] for sample in told["skipped"]] == ["2", "3", "4", "5", "6", "7"]
    assert verify(tmp_path / "out") == []


def test_nothing_left(tmp_path: Path) -> None:
    annotation = bad_coco(tmp_path)
    for number in (1, 8):
        (tmp_path / f"{number}.jpg").unlink()
    with pytest.raises(UserError, match=r"no usable sample .*3 x media file not readable"):
        shard(CocoSource(Split.TRAIN), annotation, tmp_path, tmp_path / "out")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match="the annotation lists none"):
        shard(TextSource(Split.TRAIN), tmp_path / "empty.txt", tmp_path, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_several_tars(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_tools.shards._SHARD_BYTES", 20_000)
    shard(DemoSource(), corpus, corpus, tmp_path / "out")
    folder = tmp_path / "out/train/video_text"
    assert len(list(folder.glob("*.tar"))) > 3
    manifest = Manifest.load(folder)
    assert [manifest.record(i).captions[0] for i in range(15)] == [line["captions"][0] for line in lines(corpus, Split.TRAIN)[:15]]
    assert verify(folder) == []


@pytest.mark.parametrize(("sent", "status", "leftovers"), [(signal.SIGKILL, -signal.SIGKILL, 1), (signal.SIGTERM, 143, 0)])
def test_killed_while_writing_leaves_no_out(corpus: Path, tmp_path: Path, sent: signal.Signals, status: int, leftovers: int) -> None:
    """As soon as the first tar is being written."""
    out = tmp_path / "out"
    code = "from megatron_mplug2.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "data", "shard", "demo", corpus, "--media", corpus, "--out", out])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out.partial-*/*/*/*.tar")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(sent)
    assert process.wait() == status
    assert not out.exists()
    assert len(list(tmp_path.glob("out.partial-*"))) == leftovers
    shard(DemoSource(), corpus, corpus, out)
    assert verify(out) == []
