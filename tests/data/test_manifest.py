"""Manifests over shards that the real writer wrote."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from megatron_mplug2.data.index_row import ROW
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, Manifest, MediaKind, content_id
from megatron_mplug2.data.record import Question, Record
from megatron_mplug2.errors import UserError
from tests.data.shard_writer import FACTS, ShardWriter

ASKED = Question(question="which way?", answer="left", kind="motion", reversed_answer="right")


def record(number: int) -> Record:
    return Record(captions=(f"clip {number}", "é"), questions=(ASKED,), attributes={"color": "red"})


def media(number: int) -> bytes:
    return f"media {number} ".encode() * (number + 1)


def write(folder: Path, numbers: range, kind: MediaKind = MediaKind.VIDEO, meaning: str | None = None) -> Path:
    writer = ShardWriter(folder, kind)
    for number in numbers:
        writer.add(f"clip.{number}", ".MP4", media(number), record(number), meaning)
    writer.close()
    return folder


def test_round_trip(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path / "a", range(5)))
    assert len(manifest) == 5
    for number in range(5):
        entry = manifest.entry(number)
        assert entry.key == f"{number:08d}-clip_{number}"
        assert entry.kind is MediaKind.VIDEO
        assert entry.media_id == entry.meaning_id == content_id("media", media(number)) >= 0
        assert manifest.media(number) == media(number)
        assert manifest.record(number) == record(number)
        assert manifest.facts(number) == FACTS
    for number in (-1, 5):
        with pytest.raises(IndexError):
            manifest.entry(number)


def test_others_can_read_the_tar(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path / "a", range(2)) / "000000.tar") as tar:
        assert tar.getnames() == ["00000000-clip_0.json", "00000000-clip_0.mp4", "00000001-clip_1.json", "00000001-clip_1.mp4"]
        texts = tar.extractfile("00000001-clip_1.json")
        assert texts is not None
        assert json.load(io.BytesIO(texts.read()))["captions"] == ["clip 1", "é"]


def test_documents_have_no_media(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a", MediaKind.TEXT)
    for text in ("one", "two", "one"):
        writer.add("line", "", b"", Record(text=text, attributes={}), None)
    writer.close()
    manifest = Manifest.load(tmp_path / "a")
    assert [manifest.record(i).text for i in range(3)] == ["one", "two", "one"]
    assert manifest.media(0) == b""
    first, second, third = (manifest.entry(i).media_id for i in range(3))
    assert first == third != second


def test_folders_follow_each_other(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", range(3), meaning="same"), write(tmp_path / "b", range(2, 6), meaning="same")
    both = Manifest.load_all([b, a])
    assert [both.media(i) for i in range(7)] == [media(n) for n in (2, 3, 4, 5, 0, 1, 2)]
    assert both.entry(0).media_id == both.entry(6).media_id  # the same clip in both
    assert len({both.entry(i).media_id for i in range(7)}) == 6
    assert {both.entry(i).meaning_id for i in range(7)} == {content_id("meaning", b"same")}
    assert both.fingerprint != Manifest.load_all([a, b]).fingerprint


def test_fingerprint_is_of_contents_not_of_places(tmp_path: Path) -> None:
    first = Manifest.load(write(tmp_path / "a", range(3))).fingerprint
    assert Manifest.load(write(tmp_path / "b", range(3))).fingerprint == first
    assert Manifest.load(write(tmp_path / "c", range(4))).fingerprint != first
    assert Manifest.load(write(tmp_path / "d", range(3), meaning="m")).fingerprint != first


class Contents(Dataset[bytes]):
    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, i: int) -> bytes:
        return self.manifest.media(i)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read(tmp_path: Path, start: str) -> None:
    manifest = Manifest.load_all([write(tmp_path / "a", range(20)), write(tmp_path / "b", range(20, 40))])
    assert manifest.media(25) == media(25)  # the parent's handles are open before the fork
    loader = DataLoader(Contents(manifest), batch_size=None, num_workers=2, multiprocessing_context=start)
    assert list(loader) == [media(n) for n in range(40)]


def test_pickles_as_its_folders(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path / "a", range(300)))
    data = pickle.dumps(manifest)
    assert len(data) < 500
    assert pickle.loads(data).media(7) == media(7)


def test_few_files_stay_open(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(n), range(n, n + 1)) for n in range(3)]
    manifest = Manifest.load_all(folders)
    before = len(os.listdir("/proc/self/fd"))
    assert [manifest.media(i) for _ in range(2) for i in range(3)] == [media(n) for _ in range(2) for n in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    manifest.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert manifest.media(1) == media(1)


def test_handles_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_mplug2.data.tar_files.OPEN_TARS", 4)
    contents = [bytes([number]) * 20_000 for number in range(10)]
    writer = ShardWriter(folder := tmp_path / "a", MediaKind.VIDEO, samples_a_tar=1)
    for number, data in enumerate(contents):
        writer.add("clip", ".mp4", data, record(number), None)
    writer.close()
    assert len(list(folder.glob("*.tar"))) == 10
    manifest = Manifest.load(folder)
    before = len(os.listdir("/proc/self/fd"))
    for i in (0, 1, 2, 3, 4, 5, 0, 9, 8, 7, 0):
        assert manifest.media(i) == contents[i]
        assert manifest.record(i) == record(i)
    assert len(os.listdir("/proc/self/fd")) == before + 4


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*mplug2 data shard"):
        Manifest.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="at least one folder"):
        Manifest.load_all([])


def test_empty_corpus(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", range(1))
    np.save(folder / INDEX, np.zeros(0, ROW))
    digest = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    (folder / MANIFEST).write_bytes(Header(kind=MediaKind.IMAGE, samples=0, index_sha256=digest, shards=()).to_json())
    with pytest.raises(UserError, match="no samples"):
        Manifest.load(tmp_path / "a")


def test_kinds_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"different kinds \(image, video\)"):
        Manifest.load_all([write(tmp_path / "a", range(2)), write(tmp_path / "b", range(2), MediaKind.IMAGE)])


UNCLOSED = b"\x93NUMPY\x01\x00\x10\x00{'descr': ('<i8',"
"""An index whose header does not end."""
ENDLESS = b"\x93NUMPY\x01\x00\x60\x00" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999999,), }".ljust(96)


def zipped() -> bytes:
    """A table as `np.savez` writes it, whose name was changed."""
    file = io.BytesIO()
    np.savez(file, np.zeros(2, ROW))
    return file.getvalue()


@pytest.mark.parametrize("name", [MANIFEST, INDEX])
@pytest.mark.parametrize("contents", [b"", b"{}", b'{"version": 99}', b"\x93NUMPY", b"PK\x03\x04", zipped(), UNCLOSED, ENDLESS])
def test_damaged_manifest(tmp_path: Path, name: str, contents: bytes) -> None:
    (write(tmp_path / "a", range(2)) / name).write_bytes(contents)
    with pytest.raises(UserError, match="a is not readable as a corpus"):
        Manifest.load(tmp_path / "a")


def test_index_of_another_folder(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", range(2)), write(tmp_path / "b", range(3))
    (a / INDEX).write_bytes((b / INDEX).read_bytes())
    with pytest.raises(UserError, match="does not fit"):
        Manifest.load(a)


def test_check_files_names_the_tar(tmp_path: Path) -> None:
    tar = write(tmp_path / "a", range(4)) / "000000.tar"
    manifest = Manifest.load(tmp_path / "a")
    manifest.check_files()
    whole = tar.read_bytes()
    tar.write_bytes(whole[:3000])
    with pytest.raises(UserError, match=f"000000.tar has 3000 bytes instead of {len(whole)}"):
        manifest.check_files()
    with pytest.raises(OSError, match="ends early"):
        manifest.media(3)
    tar.unlink()
    with pytest.raises(UserError, match=r"000000\.tar is missing"):
        manifest.check_files()


@pytest.mark.parametrize("contents", ['"text"', "[]", "1", "null", pytest.param("[" * 100_000, id="deep")])
def test_a_manifest_that_is_other_json(tmp_path: Path, contents: str) -> None:
    (write(tmp_path / "a", range(2)) / MANIFEST).write_text(contents)
    with pytest.raises(UserError, match="not readable as a corpus"):
        Manifest.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("field", "value"), [("shard", 7), ("shard", -1), ("media_offset", -5), ("media_offset", 1 << 40), ("media_size", 1 << 60)]
)
def test_a_damaged_index_names_no_place(tmp_path: Path, field: str, value: int) -> None:
    index = np.load(write(tmp_path / "a", range(2)) / INDEX)
    index[field][1] = value
    np.save(tmp_path / "a" / INDEX, index)
    manifest = Manifest.load(tmp_path / "a")
    assert manifest.media(0) == media(0)
    with pytest.raises(UserError, match=rf"a/{INDEX} is damaged: .* which has none there"):
        manifest.media(1)


@pytest.mark.parametrize("name", ["../000000.tar", "/etc/000000.tar", "..", "", "sub/000000.tar", "000000", "\\\\host\\0.tar", 7])
def test_a_manifest_that_points_outside_its_folder(tmp_path: Path, name: str | int) -> None:
    header = write(tmp_path / "a", range(2)) / MANIFEST
    fields = json.loads(header.read_text())
    fields["shards"][0]["name"] = name
    header.write_text(json.dumps(fields))
    with pytest.raises(
        UserError, match=r"a is not readable .*manifest.json names .*, which is not the name of a tar in the folder"
    ) as error:
        Manifest.load(tmp_path / "a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("sha256", "../../x"), ("sha256", None), ("size", -1), ("size", "big")])
def test_a_manifest_with_impossible_facts(tmp_path: Path, field: str, value: object) -> None:
    header = write(tmp_path / "a", range(2)) / MANIFEST
    fields = json.loads(header.read_text())
    fields["shards"][0][field] = value
    header.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"a is not readable as a corpus \(its manifest.json has"):
        Manifest.load(tmp_path / "a")


@pytest.mark.parametrize("digest", [5, None, "../../../../tmp/x"])
def test_a_manifest_with_an_impossible_digest_of_its_index(tmp_path: Path, digest: object) -> None:
    """It becomes a name in the cache, and a part of the data state."""
    header = write(tmp_path / "a", range(2)) / MANIFEST
    header.write_text(json.dumps(json.loads(header.read_text()) | {"index_sha256": digest}))
    with pytest.raises(UserError, match=r"for the SHA-256 of index\.npy"):
        Manifest.load(tmp_path / "a")


def test_a_tar_that_is_a_link_out_of_its_folder(tmp_path: Path) -> None:
    tar = write(tmp_path / "a", range(2)) / "000000.tar"
    tar.rename(tmp_path / "elsewhere.tar")
    tar.symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(UserError, match=r"a/000000.tar is a link that leads out of its folder"):
        Manifest.load(tmp_path / "a").check_files()
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    write(tmp_path / "b", range(2))
    Manifest.load(tmp_path / "linked").check_files()  # the folder itself may be one
