"""Indices of tars: the ones that `shard` made, and none for tars that others spoilt."""

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from data_tools.stages.index import index
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort
from data_tools.verify import verify
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Manifest
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import (
    forked,
    image,
    jpeg,
    listing_corpus,
    noise_clip,
    probed,
    status_of,
    text,
    tree,
    video,
    write_listing,
)

FEW = Packing(shard_samples=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, pairs of pictures among them, clips and texts, in several tars; some with a meaning."""
    folder = tmp_path_factory.mktemp("index")
    pictures = [image(folder / f"picture{number}.jpg", jpeg(number)) for number in range(5)]
    samples = [*pictures[:3], replace(pictures[3], second=pictures[4].media, meaning="a pair")]
    samples += [replace(video(folder / f"clip{n}.mp4", noise_clip(n, frames=5)), meaning=f"clip {n}") for n in range(3)]
    samples += [text(f"text{number}", f"words {number}") for number in range(3)]
    listing = probed(write_listing(folder / "samples", samples), folder / "listing")
    assert shard(listing_corpus(listing), folder / "out", FEW, Effort()) == 0
    return folder / "out"


def tars(folder: Path, out: Path) -> Path:
    """Copies of a folder's tars alone."""
    out.mkdir()
    for tar in folder.glob("*.tar"):
        shutil.copy(tar, out)
    return out


@pytest.mark.parametrize("stream", ["image_text", "video_text", "text"])
def test_the_same_that_shard_made(stream: str, whole: Path, tmp_path: Path) -> None:
    place = tars(whole / "train" / stream, tmp_path / "tars")
    assert index(place, Effort(workers=2)) == 0
    assert tree(place) == tree(whole / "train" / stream)
    assert not [path for path in place.iterdir() if path.name.startswith(".")], "nothing of its work is left"
    assert verify(place) == []


def test_parts_leave_nothing_of_their_work(whole: Path, tmp_path: Path) -> None:
    """Whichever is last takes it away; so does a later call, of what a killed one left."""
    place = tars(whole / "train/text", tmp_path / "tars")
    assert index(place, Effort(part=Part(index=2, count=2))) == 1 and (place / ".work-index").is_dir()
    assert index(place, Effort(part=Part(index=1, count=2))) == 0
    assert tree(place) == tree(whole / "train/text") and not (place / ".work-index").exists()
    (place / ".work-index/0123456789abcdef/.work").mkdir(parents=True)
    assert index(place, Effort(part=Part(index=2, count=2))) == 0
    assert not (place / ".work-index").exists()


def test_parts_that_end_together(whole: Path, tmp_path: Path) -> None:
    """More parts than tars, of which some find all done, or the work taken away under their hands."""
    for number in range(8):
        place = tars(whole / "train/text", tmp_path / f"tars{number}")
        parts = [forked(partial(index, place, Effort(part=Part(index=part, count=6)))) for part in range(1, 7)]
        assert [status_of(part) for part in parts] == [0] * 6
        assert tree(place) == tree(whole / "train/text") and not (place / ".work-index").exists()


def test_tars_of_several_folders_together(whole: Path, tmp_path: Path) -> None:
    place = tars(whole / "train/text", tmp_path / "tars")
    for tar in sorted(place.glob("*.tar")):
        shutil.copy(tar, place / f"more-{tar.name}")
    index(place, Effort())
    manifest = Manifest.load(place)
    assert len(manifest) == 6 and verify(place) == []
    assert manifest.record(0) == manifest.record(3)


def test_what_is_there_is_kept(whole: Path, tmp_path: Path) -> None:
    """A manifest is never written over; once it is deleted, tars that came since are in the next one."""
    place = tars(whole / "train/text", tmp_path / "tars")
    shutil.copy(whole / "train/text" / MANIFEST, place)
    assert index(place, Effort()) == 0 and not (place / INDEX).exists()
    (place / MANIFEST).unlink()
    index(place, Effort())
    (place / MANIFEST).unlink()
    shutil.copy(place / "000000.tar", place / "000009.tar")
    index(place, Effort())
    assert len(Manifest.load(place)) == 5


def test_no_tars(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tars"):
        index(tmp_path, Effort())
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file"):
        index(tmp_path / "nowhere", Effort())


Added = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> Added:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    return info, data


HOSTILE: dict[str, tuple[list[Added], str]] = {
    "upwards": ([member("../x.jpg")], "'../x.jpg' has no plain name"),
    "absolute": ([member("/tmp/x.jpg")], "'/tmp/x.jpg' has no plain name"),
    "folder": ([member("a/x.jpg")], "'a/x.jpg' is not named KEY.ENDING"),
    "symbolic link": ([member("x.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")], "'x.jpg' is no plain file"),
    "hard link": ([member("x.jpg", kind=tarfile.LNKTYPE, link="00000000-text0.json")], "'x.jpg' is no plain file"),
    "device": ([member("x.jpg", kind=tarfile.CHRTYPE)], "'x.jpg' is no plain file"),
    "long name": ([member(f"{'x' * 300}.jpg")], "is not named KEY.ENDING"),
    "no texts": ([member("x.jpg")], "x has no texts, x.json"),
    "another's texts": ([member("x.json", b'{"caption": "a cat", "url": "https://a/b.jpg"}')], "shard webdataset"),
    "texts without end": ([member("x.json", b"[" * 100_000)], "shard webdataset"),
    "two pictures": ([member("x.json", b"{}"), member("x.jpg"), member("x.png")], "x has several files of one kind"),
    "twice": ([member("x.json", b"{}"), member("y.json", b"{}"), member("x.jpg")], "x stands there twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members(name: str, whole: Path, tmp_path: Path) -> None:
    """One line that names tar and member; nothing is written beside the tars."""
    place = tars(whole / "train/text", tmp_path / "tars")
    more, told = HOSTILE[name]
    last = place / "000001.tar"
    with tarfile.open(last, "a", format=tarfile.GNU_FORMAT) as tar:
        for info, data in more:
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(UserError) as error:
        index(place, Effort())
    line = str(error.value)
    assert told in line and str(last) in line and "\n" not in line
    assert {path.name for path in place.iterdir()} <= {"000000.tar", "000001.tar", ".work-index"}


def cut_at_a_member(data: bytes) -> bytes:
    return data[: 2 * 1024]


def hidden_behind_the_end(data: bytes) -> bytes:
    return data + data


def half(data: bytes) -> bytes:
    return data[:700]


def bit_in_a_head(data: bytes) -> bytes:
    return data[:1030] + bytes([data[1030] ^ 1]) + data[1031:]


def sparse(data: bytes) -> bytes:
    head = tarfile.TarInfo("x.jpg")
    head.type = tarfile.GNUTYPE_SPARSE
    return head.tobuf(tarfile.GNU_FORMAT) + data


def below_zero(data: bytes) -> bytes:
    """A member of -512 bytes, whose next member is itself."""
    head = bytearray(tarfile.TarInfo("x.jpg").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = (-512).to_bytes(12, "big", signed=True)
    head[148:156] = f"{sum(head[:148]) + 8 * ord(' ') + sum(head[156:512]):06o}\0 ".encode()
    return bytes(head) + data


@pytest.mark.parametrize("spoilt", [cut_at_a_member, hidden_behind_the_end, half, bit_in_a_head, sparse, below_zero, lambda data: b""])
def test_spoilt_tars(spoilt: Callable[[bytes], bytes], whole: Path, tmp_path: Path) -> None:
    place = tars(whole / "train/text", tmp_path / "tars")
    tar = place / "000000.tar"
    tar.write_bytes(spoilt(tar.read_bytes()))
    with pytest.raises(UserError, match=str(tar)) as error:
        index(place, Effort())
    assert "\n" not in str(error.value) and not (place / MANIFEST).exists()
    shutil.copy(whole / "train/text/000000.tar", tar)
    assert index(place, Effort()) == 0
    assert tree(place) == tree(whole / "train/text")


def test_streams_do_not_mix(whole: Path, tmp_path: Path) -> None:
    place = tars(whole / "train/text", tmp_path / "tars")
    shutil.copy(whole / "train/image_text/000000.tar", place / "000009.tar")
    with pytest.raises(UserError, match=r"several streams \(image_text, text\)"):
        index(place, Effort())


def test_media_that_are_damaged(whole: Path, tmp_path: Path) -> None:
    place = tars(whole / "train/image_text", tmp_path / "tars")
    tar = place / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\xff\xd8\x00"))  # where a JPEG begins
    with pytest.raises(UserError, match=r"000000\.tar: 0000000\d-picture\d: .*copy the tar anew"):
        index(place, Effort())
