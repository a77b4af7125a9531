"""Copies of tars on the node's disk, made by a real process."""

import gc
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from megatron_mplug2.config.data import CacheConfig
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.locked import locked
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.staging import stage, start_staging
from megatron_mplug2.data.storage import Storage
from megatron_mplug2.data.tar_files import Shard, TarFiles
from tests.data.corpus import make_config, pair, picture, write_corpus, write_stream
from tests.data.range_server import serving
from tests.garbage import garbage


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        write_stream(tmp_path / name, MediaKind.IMAGE, [pair(number, picture(number)) for number in numbers])
        for name, numbers in (("a", range(5)), ("b", range(5, 10)))
    ]


def load(folders: list[Path], staging: Path) -> Manifest:
    staging.mkdir(exist_ok=True)
    return Manifest.load_all(folders, Storage(cache=CacheConfig(), staging=staging))


def copies(staging: Path) -> list[str]:
    return sorted(path.name for path in staging.iterdir() if path.name != "staging.lock")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_copies_are_read_once_they_are_there(folders: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = load(folders, tmp_path / "fast")
    expected = [manifest.media(i) for i in range(10)]
    assert copies(tmp_path / "fast") == []
    (tmp_path / "fast" / f"{manifest.tars[0][1].sha256}.tar.part").write_bytes(b"what a kill left")
    process = start_staging(manifest.tars, tmp_path / "fast")
    process.join(60)
    assert process.exitcode == 0
    assert copies(tmp_path / "fast") == sorted(f"{shard.sha256}.tar" for _, shard in manifest.tars)
    assert capfd.readouterr().err.endswith("fast done: 2 tars, 0.0 GB of 2 tars, 0.0 GB\n")
    manifest.close()
    for folder in folders:
        (folder / "00000.tar").unlink()
    assert [manifest.media(i) for i in range(10)] == expected


def test_one_process_a_node_copies(folders: list[Path], tmp_path: Path) -> None:
    manifest = load(folders, tmp_path / "fast")
    with locked(tmp_path / "fast" / "staging.lock"):
        process = start_staging(manifest.tars, tmp_path / "fast")
        process.join(60)
    assert process.exitcode == 0 and copies(tmp_path / "fast") == []


def test_a_damaged_tar_is_left_out(folders: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (folders[0] / "00000.tar").open("r+b") as file:
        file.write(b"?")
    manifest = load(folders, tmp_path / "fast")
    stage(manifest.tars, tmp_path / "fast")
    assert copies(tmp_path / "fast") == [f"{manifest.tars[1][1].sha256}.tar"]
    assert "leaves out 00000.tar (its SHA-256 is not that of the manifest)" in capfd.readouterr().err


def test_a_copy_that_was_damaged_later_is_dropped(folders: list[Path], tmp_path: Path) -> None:
    manifest = load(folders, tmp_path / "fast")
    stage(manifest.tars, tmp_path / "fast")
    expected = manifest.media(2)
    copy = tmp_path / "fast" / f"{manifest.tars[0][1].sha256}.tar"
    with copy.open("r+b") as file:
        file.write(bytes(manifest.tars[0][1].size))
    assert manifest.media(2) == expected and not copy.exists()


def cut(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])


def emptied(copy: Path) -> None:
    copy.write_bytes(b"")


def made_a_loop(copy: Path) -> None:
    """No user can open it, the superuser neither."""
    copy.unlink()
    copy.symlink_to(copy.name)


def made_a_folder(copy: Path) -> None:
    copy.unlink()
    copy.mkdir()


@pytest.mark.parametrize("spoil", [cut, emptied, made_a_loop, made_a_folder])
def test_a_copy_that_cannot_be_read_gives_way_to_its_origin(
    folders: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    manifest = load(folders, tmp_path / "fast")
    expected = [manifest.media(i) for i in range(10)]
    stage(manifest.tars, tmp_path / "fast")
    first, second = (tmp_path / "fast" / f"{shard.sha256}.tar" for _, shard in manifest.tars)
    spoil(first)
    second.unlink()
    assert [load(folders, tmp_path / "fast").media(i) for i in range(10)] == expected
    assert spoil not in (cut, emptied) or not first.exists(), "dropped"
    stage(manifest.tars, tmp_path / "fast")
    assert second.stat().st_size == manifest.tars[1][1].size
    told = capfd.readouterr().err
    assert first.is_file() or f"leaves out 00000.tar ({first} is in the way: Is a directory)" in told


def test_a_cut_copy_is_copied_anew(folders: list[Path], tmp_path: Path) -> None:
    manifest = load(folders, tmp_path / "fast")
    stage(manifest.tars, tmp_path / "fast")
    copy = tmp_path / "fast" / f"{manifest.tars[0][1].sha256}.tar"
    cut(copy)
    stage(manifest.tars, tmp_path / "fast")
    assert copy.stat().st_size == manifest.tars[0][1].size


def test_a_folder_that_cannot_be_made_is_told(folders: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    process = start_staging(load(folders, tmp_path / "fast").tars, tmp_path / "file" / "fast")
    process.join(60)
    assert process.exitcode == 0
    told = capfd.readouterr().err
    assert "file/fast is not possible (" in told and told.count("\n") == 1


class _Collecting(list[tuple[TarFiles, Shard]]):
    """No tars, and a process that looks at them collects its garbage."""

    def __len__(self) -> int:
        gc.collect()
        return 0


def test_its_parents_garbage_is_left_alone(tmp_path: Path) -> None:
    with garbage(tmp_path):
        process = start_staging(_Collecting(), tmp_path)
        process.join(60)
        assert process.exitcode == 0


def _stage_with_little_space(manifest: Manifest, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    stage(manifest.tars, folder)


def test_a_disk_that_takes_no_more_stops_the_copying_not_the_run(
    folders: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = load(folders, tmp_path / "fast")
    process = get_context("fork").Process(target=_stage_with_little_space, args=(manifest, tmp_path / "fast"))
    process.start()
    process.join(60)
    assert process.exitcode == 0 and copies(tmp_path / "fast") == []
    assert "fast stops (File too large): the rest is read from where it is: 0 tars" in capfd.readouterr().err
    files, shard = manifest.tars[0]
    stage([(files, replace(shard, size=1 << 60))], tmp_path / "fast")
    assert f"fast stops (00000.tar has {1 << 60} bytes, " in capfd.readouterr().err
    assert manifest.media(2) == picture(2)


def test_the_loader_stages_remote_tars(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", videos=1)
    with serving(tmp_path / "corpus") as server:
        config = make_config(
            tmp_path / "corpus",
            tmp_path,
            data__train={"text": [f"{server.url}/text"]},
            data__cache={"folder": str(tmp_path / "cache"), "limit_gb": 1.0},
            data__staging=str(tmp_path / "fast"),
            schedule=[{"steps": 3, "text": 1.0}],
        )
        steps = iter(Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True))
        ids = [next(steps)[1][0].sample_ids.tolist()]
        wait_for(lambda: len(copies(tmp_path / "fast")) == 1 and not list((tmp_path / "fast").glob("*.part")))
    ids += [batches[0].sample_ids.tolist() for _, batches in steps]  # the server is gone
    assert len(ids) == 3
