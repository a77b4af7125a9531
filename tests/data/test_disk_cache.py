"""The node's cache, among real processes, one of which is killed."""

import multiprocessing
import os
import signal
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from megatron_mplug2.data import disk_cache
from megatron_mplug2.data.disk_cache import DiskCache

BLOCK = 1000
CONTENT = np.random.default_rng(0).bytes(10_500)
DIGEST = sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "BLOCK_BYTES", BLOCK)


class Origin:
    """Counts what is fetched, in a file that processes share."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self, start: int, end: int) -> bytes:
        with self._log.open("a") as file:
            file.write(f"{start}\n")
        return CONTENT[start:end]

    @property
    def fetched(self) -> list[int]:
        return sorted(int(line) for line in self._log.read_text().splitlines()) if self._log.exists() else []


def read(cache: DiskCache, origin: Origin, offset: int, size: int) -> bytes:
    return cache.read(DIGEST, len(CONTENT), offset, size, origin)


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "blocks").glob("*/*"))


def test_blocks_are_fetched_once(tmp_path: Path) -> None:
    origin, cache = Origin(tmp_path / "log"), DiskCache(tmp_path / "cache", 10**6)
    for offset, size in ((0, 1), (950, 100), (1999, 1), (2000, 0), (900, 3000), (10_400, 100), (0, 10_500)):
        assert read(cache, origin, offset, size) == CONTENT[offset : offset + size]
    assert origin.fetched == list(range(0, 11_000, 1000))
    assert read(DiskCache(tmp_path / "cache", 10**6), origin, 0, 10_500) == CONTENT
    assert len(origin.fetched) == 11


def test_the_limit_holds_and_what_was_read_lately_stays(tmp_path: Path) -> None:
    origin, cache = Origin(tmp_path / "log"), DiskCache(tmp_path / "cache", 4500)
    for block in (0, 1, 2, 3):
        read(cache, origin, block * BLOCK, 10)
        os.utime(tmp_path / "cache" / "blocks" / DIGEST / str(block), ns=(block, block))  # as if long ago
    read(cache, origin, 0, 10)
    for block in range(4, 10):
        assert read(cache, origin, block * BLOCK, BLOCK) == CONTENT[block * BLOCK : (block + 1) * BLOCK]
        assert kept(tmp_path / "cache") <= 4500
        if block == 4:
            read(cache, origin, 0, 10)
            assert origin.fetched.count(0) == 1, "it was read after the others"
    read(cache, origin, 1000, 10)
    assert origin.fetched.count(1000) == 2


def test_a_block_that_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 100)
    assert read(cache, Origin(tmp_path / "log"), 5, 50) == CONTENT[5:55] and kept(tmp_path / "cache") == 0


def test_damaged_blocks(tmp_path: Path) -> None:
    origin, cache = Origin(tmp_path / "log"), DiskCache(tmp_path / "cache", 10**6)
    read(cache, origin, 0, 2000)
    first, second = (tmp_path / "cache" / "blocks" / DIGEST / str(number) for number in (0, 1))
    first.write_bytes(first.read_bytes()[:500])
    assert read(cache, origin, 0, 100) == CONTENT[:100], "too short, so fetched anew"
    second.write_bytes(bytes(1000))
    assert read(cache, origin, 1000, 100) == bytes(100), "the reader's checksum finds it"
    assert cache.forget(DIGEST, 1000, 100) and not cache.forget(DIGEST, 1000, 100)
    assert read(cache, origin, 1000, 100) == CONTENT[1000:1100]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache = DiskCache(tmp_path / "cache", 10**6)
    (tmp_path / "cache" / "blocks" / DIGEST / "0.part").mkdir(parents=True)  # it cannot be written over
    for _ in range(2):
        assert read(cache, Origin(tmp_path / "log"), 0, 100) == CONTENT[:100]
    assert capfd.readouterr().err.count("reading goes on without it") == 1


def test_a_folder_that_takes_no_more_locks_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As on a disk that became read-only. A file in the folder's place stands for it: root may write everywhere else."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "locks").touch()
    cache, origin = DiskCache(tmp_path / "cache", 10**6), Origin(tmp_path / "log")
    with pytest.raises(OSError, match="File exists"):
        cache.check_writable()
    for _ in range(2):
        assert read(cache, origin, 0, 100) == CONTENT[:100]
    assert capfd.readouterr().err.count("reading goes on without it") == 1


def _read_all(folder: Path, log: Path, seed: int, limit: int) -> None:
    cache, origin = DiskCache(folder, limit), Origin(log)
    for offset in np.random.default_rng(seed).integers(0, 10_000, 200).tolist():
        assert read(cache, origin, offset, 500) == CONTENT[offset : offset + 500]


def test_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(tmp_path / "cache", tmp_path / "log", seed, 10**6)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert Origin(tmp_path / "log").fetched == list(range(0, 11_000, 1000)), "each block by one process"


def _read_until_killed(folder: Path, log: Path, seed: int) -> None:
    while True:
        _read_all(folder, log, seed, 4500)


def test_a_kill_leaves_it_whole(tmp_path: Path) -> None:
    """Two processes evict from a cache of four blocks; at every kill it is within its limit and every block in it is right."""
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    for round_ in range(5):
        processes = [context.Process(target=_read_until_killed, args=(tmp_path / "cache", log, 10 * round_ + n)) for n in range(2)]
        begun = len(Origin(log).fetched)
        for process in processes:
            process.start()
        while len(Origin(log).fetched) < begun + 50:
            assert all(process.is_alive() for process in processes)
        for process in processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
        blocks = [path for path in (tmp_path / "cache" / "blocks").glob("*/*") if path.suffix != ".part"]
        assert all(path.read_bytes() == CONTENT[int(path.name) * BLOCK :][:BLOCK] for path in blocks)
        assert kept(tmp_path / "cache") <= 4500 + BLOCK  # the part of one that was being written
    _read_all(tmp_path / "cache", log, 99, 4500)
    assert kept(tmp_path / "cache") <= 4500 and not list(tmp_path.rglob("*.part"))
