"""What `mplug2 data verify` finds in shards that were damaged, and that it finds nothing in whole ones."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.demo.make import make_demo
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing
from data_tools.verify import verify
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, MediaKind
from megatron_mplug2.errors import UserError
from tests.data.test_manifest import ENDLESS, UNCLOSED, zipped
from tests.data_tools.sharding import sharded
from tests.data_tools.stages.test_commands import data
from tests.data_tools.test_demo import SMALL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    make_demo(folder / "demo", 0, SMALL)
    sharded("demo", folder / "demo", folder / "demo", folder / "out", packing=Packing(shard_samples=10))
    shutil.rmtree(folder / "out/.work")
    return folder / "out"


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def test_whole_shards(whole: Path) -> None:
    assert verify(whole) == verify(whole / "test/text") == verify(whole, workers=3) == []
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file or directory"):
        verify(whole / "nowhere")


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        verify(tmp_path)


def test_a_cut_tar_is_one_line(shards: Path) -> None:
    folder = shards / "train/video_text"
    tar, rows = folder / "000000.tar", np.load(folder / INDEX)
    rows = rows[rows["shard"] == 0]
    size, cut = tar.stat().st_size, int(rows[4]["media_offset"]) + 1
    os.truncate(tar, cut)
    lost = sum(int(max(row["media_offset"] + row["media_size"], row["record_offset"] + row["record_size"])) > cut for row in rows)
    assert 1 < lost < len(rows)
    (line,) = verify(shards)
    assert line.startswith(f"{tar} has {cut} bytes instead of {size}: ") and line.endswith(
        f"; {lost} of its {len(rows)} samples are cut off"
    )
    with tar.open("r+b") as file:  # and what is damaged before the cut is still named
        file.seek(int(rows[1]["media_offset"]))
        file.write(b"\0\0\0\0")
    assert verify(shards) == [line, f"{tar}: {rows[1]['key'].decode()}: media damaged"]


@pytest.mark.parametrize(("role", "what"), [("media", "media"), ("record", "texts")])
def test_a_flipped_bit(role: str, what: str, shards: Path) -> None:
    folder = shards / "train/video_text"
    row = np.load(folder / INDEX)[7]
    tar = bytearray((folder / "000000.tar").read_bytes())
    tar[int(row[f"{role}_offset"]) + int(row[f"{role}_size"]) // 2] ^= 4
    (folder / "000000.tar").write_bytes(tar)
    assert verify(shards) == [f"{folder / '000000.tar'}: {row['key'].decode()}: {what} damaged"]


def test_every_flipped_bit(shards: Path) -> None:
    """Also in headers, padding, index and manifest."""
    rng = np.random.default_rng(0)
    for path in sorted((shards / "test").glob("*/*.*")):
        before = path.read_bytes()
        for _ in range(5):
            damaged = bytearray(before)
            damaged[rng.integers(len(before))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            assert verify(shards / "test") or (path.name == MANIFEST and json.loads(damaged) == json.loads(before)), path
        path.write_bytes(before)
    assert verify(shards) == []


def test_missing_and_strange_files(shards: Path) -> None:
    folder = shards / "train/text"
    (folder / "000000.tar").rename(folder / "000001.tar")
    strange, missing = verify(shards)
    assert strange == f"{folder}/000001.tar: not in manifest.json" and missing.startswith(f"{folder}/000000.tar is missing")
    (folder / INDEX).unlink()
    assert [fault for fault in verify(shards) if INDEX in fault] == [
        f"{folder}/index.npy: No such file or directory: delete manifest.json, then run `mplug2 data index` on its folder"
    ]


def test_a_folder_that_lacks_its_manifest(shards: Path) -> None:
    folder = shards / "train/text"
    (folder / MANIFEST).unlink()
    (fault,) = verify(shards)
    assert fault.startswith(f"{folder}: tars without a manifest.json")


def test_members_that_another_reader_does_not_see(shards: Path) -> None:
    folder = shards / "train/text"
    rows = np.load(folder / INDEX)
    tar = bytearray((folder / "000000.tar").read_bytes())
    end = int(rows[2]["record_offset"]) - 512
    tar[end : end + 512] = bytes(512)  # a tar ends there
    (folder / "000000.tar").write_bytes(tar)
    (line,) = verify(shards)
    assert line.startswith(f"{folder}/000000.tar is no tar, or it is damaged (more than zeros behind the end of its members, byte {end})")


def test_a_member_of_another_name(shards: Path) -> None:
    folder = shards / "train/text"
    row = np.load(folder / INDEX)[2]
    info = tarfile.TarInfo("other.json")
    info.size = int(row["record_size"])
    with (folder / "000000.tar").open("r+b") as file:
        file.seek(int(row["record_offset"]) - 512)
        file.write(info.tobuf())
    assert verify(shards) == [f"{folder}/000000.tar: {row['key'].decode()}: missing from the tar"]


def test_another_kind(shards: Path) -> None:
    """It is the loader that would take texts for clips."""
    manifest = shards / "train/text" / MANIFEST
    header = Header.from_json(manifest.read_bytes())
    manifest.write_bytes(replace(header, kind=MediaKind.VIDEO).to_json())
    (line,) = verify(shards)
    assert line.startswith(f"{manifest}: calls its samples video, which are text: delete manifest.json, then run `mplug2 data index`")


@pytest.mark.parametrize("index", [UNCLOSED, ENDLESS, zipped(), b"PK\x03\x04", b""], ids=["unclosed", "endless", "zip", "cut zip", "empty"])
def test_an_index_that_is_none(index: bytes, shards: Path) -> None:
    """Whatever its manifest was made for."""
    folder = shards / "train/text"
    (folder / INDEX).write_bytes(index)
    header = Header.from_json((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_bytes(replace(header, index_sha256=hashlib.sha256(index).hexdigest()).to_json())
    (fault,) = verify(shards)
    assert fault.startswith(f"{folder}/index.npy: not readable (") and fault.endswith("on its folder") and "\n" not in fault


def with_index(folder: Path, change: Callable[[Any], None]) -> None:
    """The index changed, and the manifest that fits it."""
    rows = np.load(folder / INDEX)
    change(rows)
    np.save(folder / INDEX, rows)
    header = Header.from_json((folder / MANIFEST).read_bytes())
    digest = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    (folder / MANIFEST).write_bytes(replace(header, index_sha256=digest).to_json())


@pytest.mark.parametrize(
    ("field", "value"),
    [("shard", 99), ("shard", -1), ("media_offset", -5), ("media_size", 1 << 62), ("record_size", -1), ("second_offset", 1 << 40)],
)
def test_rows_that_point_outside(field: str, value: int, shards: Path) -> None:
    folder = shards / "train/image_text"
    key = np.load(folder / INDEX)[1]["key"].decode()

    def change(rows: Any) -> None:
        rows[field][1] = value

    with_index(folder, change)
    assert verify(shards) == [f"{folder}/index.npy: {key}: points outside its tar"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"version": 1}, "not version 2"),
        ({"version": None}, "not version 2"),
        ({"kind": "smell"}, "smell"),
        ({"shards": [{"name": "../text/000000.tar", "size": 1, "sha256": "0" * 64}]}, "not the name of a tar in the folder"),
        ({"shards": [{"name": "/etc/passwd", "size": 1, "sha256": "0" * 64}]}, "not the name of a tar in the folder"),
        ({"shards": [{"name": "000000.tar", "size": "1", "sha256": "0" * 64}]}, "for the bytes of"),
        ({"shards": 3}, "not readable"),
        ({"index_sha256": "../" * 20 + "0000"}, "for the SHA-256 of index.npy"),
    ],
)
def test_manifests_that_cannot_be(fields: dict[str, Any], told: str, shards: Path) -> None:
    path = shards / "train/image_text" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))
    (fault,) = verify(shards)
    assert fault.startswith(f"{path}: not readable") and told in fault and "\n" not in fault


def test_a_damaged_index_does_not_hide_damaged_tars(shards: Path) -> None:
    folder = shards / "train/text"
    for name in (INDEX, "000000.tar"):
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"line", b"lime"))
    assert [fault.partition(":")[0] for fault in verify(shards)] == [f"{folder}/{name}" for name in (INDEX, "000000.tar")]


def test_parts_find_all_together(shards: Path) -> None:
    tars = sorted(shards.glob("*/*/*.tar"))
    for tar in tars:
        os.truncate(tar, 512)
    found = [{fault.partition(".tar")[0] for fault in verify(shards, Part(index=index, count=3))} for index in (1, 2, 3)]
    assert set.union(*found) == {str(tar.with_suffix("")) for tar in tars}
    assert sum(map(len, found)) == len(tars)


def test_the_command(shards: Path) -> None:
    done = data("verify", shards)
    assert (done.exit_code, done.stdout) == (0, f"{shards}: 9 streams, all bytes as written\n")
    (shards / "train/text/000000.tar").unlink()
    done = data("verify", shards)
    assert done.exit_code != 0 and done.stderr.startswith(f"{shards}/train/text/000000.tar is missing")
    assert isinstance(done.exception, UserError) and "has 1 fault (listed above)" in str(done.exception)
