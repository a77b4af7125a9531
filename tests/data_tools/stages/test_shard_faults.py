"""What goes wrong while tars are written: no half of one is left, and once it is mended the stage goes on to the same bytes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_tools.stages import work_folder
from data_tools.stages.plan import Packing
from data_tools.verify import verify
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import forked, image, jpeg, listed, packed, pictures, small_file_system, status_of, tree, wait_for


@pytest.mark.parametrize("change", ["other", "gone", "cut"])
def test_media_that_changed_since_the_probe(change: str, tmp_path: Path) -> None:
    """The tar is not written, its neighbours are; once the file is as it was, the stage goes on."""
    samples = pictures(tmp_path, 6)
    listing = listed(tmp_path, *samples)
    packed(listing, tmp_path / "undisturbed", Packing(shard_samples=2))
    place = tmp_path / "picture3.jpg"
    place.unlink()
    if change != "gone":
        place.write_bytes(jpeg(99) if change == "other" else jpeg(3)[:-9])
    with pytest.raises(UserError, match=r"picture3\.jpg \(sample picture3\) is not as it was when the corpus was probed") as told:
        packed(listing, tmp_path / "out", Packing(shard_samples=2))
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "out").rglob("manifest.json")) and not (tmp_path / "out/report.json").exists()
    place.write_bytes(jpeg(3))
    assert packed(listing, tmp_path / "out", Packing(shard_samples=2)) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_listing_that_is_damaged_or_from_elsewhere(tmp_path: Path) -> None:
    listing = listed(tmp_path, *pictures(tmp_path, 2))
    chunk = listing / "chunks/000000.jsonl"
    chunk.write_bytes(chunk.read_bytes().replace(b"train", b"../..", 1))
    with pytest.raises(UserError, match=r"000000\.jsonl is damaged"):
        packed(listing, tmp_path / "out")
    with pytest.raises(UserError, match=r"cannot read .*listing\.json: No such file"):
        packed(tmp_path / "nowhere", tmp_path / "out")


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed one's place is free again."""
    monkeypatch.setattr(work_folder, "_PATIENCE_S", 0.1)
    listing = listed(tmp_path, *pictures(tmp_path, 4))

    def write() -> None:
        monkeypatch.setattr(os, "fsync", lambda _: signal.pause())  # a disk that does not answer
        packed(listing, tmp_path / "out", Packing(shard_samples=1))

    pid = forked(write)
    wait_for(lambda: list((tmp_path / "out/.work").glob("part-1-of-1/*")), "file in work")
    with pytest.raises(UserError, match="is being written by another process"):
        packed(listing, tmp_path / "out", Packing(shard_samples=1))
    os.killpg(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    assert packed(listing, tmp_path / "out", Packing(shard_samples=1)) == 0
    assert verify(tmp_path / "out") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small_file_system(tmp_path / "disk", "1m") as place:
        yield place


def test_no_space_left(tmp_path: Path, small_disk: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number) + np.random.default_rng(number).bytes(100_000))
    listing = listed(tmp_path, *(image(tmp_path / f"{n}.jpg", (tmp_path / f"{n}.jpg").read_bytes()) for n in range(6)))
    packed(listing, tmp_path / "undisturbed", Packing(shard_samples=2))
    (small_disk / "filler").write_bytes(bytes(600 << 10))
    with pytest.raises(UserError, match=r"cannot write .*000001\.tar: No space left on device; mend that"):
        packed(listing, small_disk / "out", Packing(shard_samples=2))
    whole = tree(tmp_path / "undisturbed")
    assert tree(small_disk / "out").items() < whole.items()
    (small_disk / "filler").unlink()
    assert packed(listing, small_disk / "out", Packing(shard_samples=2)) == 0
    assert tree(small_disk / "out") == whole
