"""Tars of img2dataset and video2dataset, whole, damaged and hostile."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data_tools.sample import Reason, Sample
from data_tools.sources.registry import source
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.errors import UserError
from tests.data_tools.sharding import numbers_by_key, sharded
from tests.shared import SHARED, needs_shared


def write_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(place: Path) -> list[Sample]:
    return list(source("webdataset", Split.TRAIN).samples(place, Path("/nowhere")))


def media(sample: Sample) -> bytes:
    assert sample.media is not None
    return sample.media.read()


def fault(sample: Sample) -> str:
    assert sample.fault is not None and sample.fault.reason is Reason.UNREADABLE
    return sample.fault.detail


def test_pictures_and_clips(tmp_path: Path) -> None:
    facts = json.dumps({"caption": "of the json", "status": "success", "key": "000000001"}).encode()
    members = [
        ("000000000.jpg", b"picture 0"),
        ("000000000.txt", "a café".encode()),
        ("000000000.json", facts),
        ("000000001.webp", b"picture 1"),
        ("000000001.json", facts),
        ("sub/000000002_00000.MP4", b"clip"),
        ("sub/000000002_00000.txt", b"a dance"),
        ("000000003.png", b"no caption"),
        ("000000003.json", b'{"caption": null}'),
        ("_stats.json.gz", b"passed over"),
    ]
    write_tar(tmp_path / "00001.tar", members)
    write_tar(tmp_path / "00000.tar", [("9.jpg", b"first"), ("9.txt", b"of the folder")])
    (tmp_path / "00000_stats.json").write_text("{}")
    samples = read(tmp_path)
    assert [(sample.key, sample.record.captions) for sample in samples] == [
        ("9", ("of the folder",)),
        ("000000000", ("a café",)),
        ("000000001", ("of the json",)),
        ("sub/000000002_00000", ("a dance",)),
        ("000000003", ()),
    ]
    assert [media(sample) for sample in samples] == [b"first", b"picture 0", b"picture 1", b"clip", b"no caption"]
    assert [sample.stream for sample in samples[2:4]] == [Task.IMAGE_TEXT, Task.VIDEO_TEXT]
    assert [sample.media.extension for sample in samples if sample.media][2:4] == [".webp", ".mp4"]
    assert read(tmp_path / "00001.tar") == samples[1:]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sparse(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}
    return info


def test_hostile_members_are_left_out_and_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    members: list[tuple[str | tarfile.TarInfo, bytes]] = [
        (special("a.jpg", tarfile.SYMTYPE, str(secret)), b""),
        ("a.txt", b"a link"),
        (special("b.jpg", tarfile.LNKTYPE, "ok.jpg"), b""),
        (special("c.jpg", tarfile.CHRTYPE), b""),
        (special("d.txt", tarfile.FIFOTYPE), b""),
        ("../e.jpg", b"above"),
        ("/f.jpg", b"absolute"),
        ("g.jpg", b"one"),
        ("g.jpg", b"two"),
        (sparse("h.jpg"), b"x"),
        ("i\udcff.jpg", b"not Unicode"),
        (special("folder", tarfile.DIRTYPE), b""),
        ("ok.jpg", b"picture"),
        ("ok.txt", b"good"),
    ]
    write_tar(tmp_path / "0.tar", members)
    before = sorted(tmp_path.iterdir())
    *bad, ok = read(tmp_path / "0.tar")
    assert (ok.key, ok.record.captions, media(ok)) == ("ok", ("good",), b"picture")
    assert [sample.media for sample in bad] == [None] * 9
    assert [fault(sample) for sample in bad] == [
        "the member 'a.jpg' is no plain file",
        "the member 'b.jpg' is no plain file",
        "the member 'c.jpg' is no plain file",
        "the member 'd.txt' is no plain file",
        "the member '../e.jpg' has no plain name",
        "the member '/f.jpg' has no plain name",
        "there are two members 'g.jpg'",
        "the member 'h.jpg' is no plain file",
        "the member 'i?.jpg' has no plain name",
    ]
    assert all(sample == Sample.from_json(sample.to_json()) for sample in (*bad, ok))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("1.txt", b"\xff\xfe", "can't decode"),
        ("1.json", b"{", "Expecting"),
        ("1.json", b"[]", "has no fields"),
        ("1.json", b'{"caption": 5}', "5"),
    ],
)
def test_a_caption_that_is_none(tmp_path: Path, name: str, text: bytes, told: str) -> None:
    bad, good = read(write_tar(tmp_path / "0.tar", [("1.jpg", b"a"), (name, text), ("2.jpg", b"b"), ("2.txt", b"c")]))
    assert told in fault(bad) and good.record.captions == ("c",)


def test_no_media_and_a_text_without_end(tmp_path: Path) -> None:
    none, endless = read(write_tar(tmp_path / "0.tar", [("1.txt", b"a"), ("2.jpg", b"a"), ("2.txt", bytes((16 << 20) + 1))]))
    assert none.fault is not None and none.fault.reason is Reason.MISSING
    assert endless.fault is not None and endless.fault.reason is Reason.TOO_LARGE


def test_damaged_tars_are_one_line(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "0.tar", [("1.jpg", b"a" * 700), ("1.txt", b"b"), ("2.jpg", b"c" * 700), ("2.txt", b"d")]).read_bytes()
    inside_data, inside_head, second_head, third_head = 700, 2048 + 512 + 100, 1536, 2560
    damaged = {
        "data.tar": whole[:inside_data],
        "head.tar": whole[:inside_head],
        "flipped.tar": whole[:second_head] + b"\xff" * 512 + whole[second_head + 512 :],
        "between.tar": whole[:third_head],
        "one_zero.tar": whole[:third_head] + bytes(512),
        "hole.tar": whole[:third_head] + bytes(512) + whole[third_head + 512 :],
        "joined.tar": whole + whole,
        "more.tar": whole + b"more" * 1000,
        "empty.tar": b"",
        "text.tar": b"no tar at all" * 100,
        "packed.tar": gzip.compress(whole),
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name} is no tar, or it is damaged .*download it anew") as raised:
            read(tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"cannot read the tar .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"there is no \.tar in"):
        read(tmp_path / "folder")


def test_a_long_end_is_none_of_a_damage(tmp_path: Path) -> None:
    """Some writers fill up to a whole record, of any size."""
    tar = write_tar(tmp_path / "0.tar", [("1.jpg", b"a"), ("1.txt", b"b")])
    shortest = tar.read_bytes().rstrip(b"\0") + bytes(511) + bytes(2 * 512)
    for data in (shortest, tar.read_bytes() + bytes(3 << 20)):
        tar.write_bytes(data)
        assert [sample.key for sample in read(tar)] == ["1"]


def test_flipped_bytes_never_end_in_a_traceback(tmp_path: Path) -> None:
    """Whatever a head says, a damaged tar is told in one line, or its samples are read or left out."""
    members = [(name, b"a" * 40) for name in ("1.jpg", "1.txt", "long/" * 40 + "2.jpg", "2.txt")]
    whole = write_tar(tmp_path / "0.tar", members).read_bytes()
    draws = np.random.default_rng(0)
    told = 0
    for number in range(200):
        flipped = bytearray(whole)
        for place in draws.choice(len(whole), 3):
            flipped[place] = draws.integers(256)
        flipped[124] = draws.choice([ord("0"), 0x80, 0xFF])  # the first size's first byte: as it is, binary, or below zero
        if number % 2:
            flipped[148:156] = f"{sum(flipped[:148]) + 8 * ord(' ') + sum(flipped[156:512]):06o}\0 ".encode()  # its checksum
        (tmp_path / "flipped.tar").write_bytes(flipped)
        try:
            assert all(sample.fault or sample.media for sample in read(tmp_path / "flipped.tar"))
        except UserError:
            told += 1
    assert 0 < told < 200


@needs_shared
def test_real_pictures_in_a_tar(tmp_path: Path) -> None:
    assert SHARED is not None
    pictures = sorted((SHARED / "corpora/real/image/images").iterdir())[:6]
    members = [pair for path in pictures for pair in ((path.name, path.read_bytes()), (f"{path.stem}.txt", path.stem.encode()))]
    hostile = special("x.jpg", tarfile.SYMTYPE, str(pictures[0]))
    write_tar(tmp_path / "00000.tar", [*members, (hostile, b"")])
    report = sharded("webdataset", tmp_path / "00000.tar", tmp_path, tmp_path / "out")
    assert report.written == {"train/image_text": 6} and report.left_out == {Reason.UNREADABLE: 1}
    manifest = Manifest.load(tmp_path / "out/train/image_text")
    numbers = numbers_by_key(manifest)
    assert [manifest.record(numbers[path.stem]).captions for path in pictures] == [(path.stem,) for path in pictures]
    assert [manifest.media(numbers[path.stem]) for path in pictures] == [path.read_bytes() for path in pictures]
