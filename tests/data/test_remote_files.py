"""Folders behind http and s3, served by a real server on this machine."""

import gc
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from megatron_mplug2.config.data import CacheConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, Manifest
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.storage import Storage
from megatron_mplug2.errors import UserError
from tests.data.corpus import make_config, write_corpus
from tests.data.range_server import RangeServer, serving

SCHEDULE = [{"steps": 6, "text": 1.0, "image_text": 2.0, "resolution": 16}]


@pytest.fixture(scope="module", autouse=True)
def closed_sessions() -> Iterator[None]:
    """fsspec keeps every file system; a process that is forked later would wait a second for each, closing them without their thread."""
    yield
    for scheme in ("http", "s3"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    gc.collect()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, videos=1)
    return folder


@pytest.fixture
def server(corpus: Path) -> Iterator[RangeServer]:
    with serving(corpus) as server:
        yield server


def storage(folder: Path) -> Storage:
    return Storage(cache=CacheConfig(folder=folder, limit_gb=1.0), staging=None)


def remote_config(corpus: Path, tmp_path: Path, url: str, **changes: Any) -> RunConfig:
    folders = {stream: [f"{url}/{stream}/"] for stream in ("text", "image_text")}
    cache = {"folder": str(tmp_path / "cache"), "limit_gb": 1.0}
    return make_config(corpus, tmp_path, **{"data__train": folders, "data__cache": cache, "schedule": SCHEDULE, **changes})


def rows(config: RunConfig) -> list[torch.Tensor]:
    loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)
    return [getattr(batch, "media", batch.sample_ids) for _, batches in loader for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_remote_stream_is_the_local_one(corpus: Path, tmp_path: Path, server: RangeServer, workers: int) -> None:
    expected = rows(make_config(corpus, tmp_path, schedule=SCHEDULE))
    got = rows(remote_config(corpus, tmp_path, server.url, data__workers=workers))
    assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    assert server.asked.count("00000.tar") == 2 and server.asked.count(INDEX) == 2, "a block of each tar, once for all workers"
    again = rows(remote_config(corpus, tmp_path, server.url))
    assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))
    assert server.asked.count("00000.tar") == 2 and server.asked.count(INDEX) == 2, "from the disk"


def test_a_transient_fault_is_retried(corpus: Path, tmp_path: Path, server: RangeServer) -> None:
    config = remote_config(corpus, tmp_path, server.url)
    loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)
    server.failures = 2
    for _ in loader:
        pass
    assert server.failures == 0 and loader.state_after(5).substituted == 0


@pytest.mark.parametrize("failures", [1, 2])
def test_a_transient_fault_at_the_start_is_retried(corpus: Path, tmp_path: Path, server: RangeServer, failures: int) -> None:
    """The first requests are for `manifest.json`."""
    server.failures = failures
    manifest = Manifest.load_all([f"{server.url}/text"], storage(tmp_path / "cache"))
    assert len(manifest) == len(Manifest.load(corpus / "text")) and server.failures == 0


def test_a_damaged_block_is_fetched_anew(corpus: Path, tmp_path: Path, server: RangeServer) -> None:
    manifest = Manifest.load_all([f"{server.url}/image_text"], storage(tmp_path / "cache"))
    expected = Manifest.load(corpus / "image_text")
    assert manifest.media(3) == expected.media(3)
    (block,) = (tmp_path / "cache" / "blocks").glob("*/*")
    block.write_bytes(bytes(block.stat().st_size))
    assert manifest.media(3) == expected.media(3) and manifest.record(5) == expected.record(5)
    assert server.asked.count("00000.tar") == 2


def test_pickles_with_its_storage(corpus: Path, tmp_path: Path, server: RangeServer) -> None:
    manifest = pickle.loads(pickle.dumps(Manifest.load_all([f"{server.url}/image_text"], storage(tmp_path / "cache"))))
    assert manifest.media(2) == Manifest.load(corpus / "image_text").media(2)


def test_what_cannot_be_reached_is_told_in_one_line(corpus: Path, tmp_path: Path, server: RangeServer) -> None:
    for url, told in ((f"{server.url}/nothing", "nothing has no manifest.json"), ("http://127.0.0.1:9", "127.0.0.1:9 cannot be read")):
        with pytest.raises(UserError, match=told) as error:
            Manifest.load_all([url], storage(tmp_path / "cache"))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"remote: set data.cache.folder"):
        Manifest.load(server.url)


@pytest.mark.parametrize("cache", ["file", "/proc/cache"])
def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path, server: RangeServer, cache: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        Manifest.load_all([f"{server.url}/text"], storage(tmp_path / cache))
    assert str(error.value).startswith(f"data.cache.folder={tmp_path / cache} cannot be written (")
    assert server.url not in str(error.value) and server.asked == []


def test_a_full_disk_is_the_caches_fault(corpus: Path, tmp_path: Path, server: RangeServer) -> None:
    """The kernel's own answer: what stands for the disk is /dev/full."""
    cache = tmp_path / "cache"
    cache.mkdir()
    digest = Header.from_json((corpus / "text" / MANIFEST).read_bytes()).index_sha256
    (cache / f"{digest}-{INDEX}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"data.cache.folder={cache} cannot be written \(No space left on device\)"):
        Manifest.load_all([f"{server.url}/text"], storage(cache))


def test_a_connection_that_is_dropped_leaves_no_trace(corpus: Path, tmp_path: Path, server: RangeServer) -> None:
    """In the middle of an answer: of two indices, and of a block of each tar."""
    expected = rows(make_config(corpus, tmp_path, schedule=SCHEDULE))
    config = remote_config(corpus, tmp_path, server.url)
    server.drops = 2
    loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)
    assert server.drops == 0
    server.drops = 2
    got = [getattr(batch, "media", batch.sample_ids) for _, batches in loader for batch in batches]
    assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    assert server.drops == 0 and loader.state_after(5).substituted == 0 and server.asked.count("00000.tar") == 4


def test_a_server_that_gives_a_byte_now_and_then(
    corpus: Path, tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never stalls, so that only the whole request's time shows it: of an index, and of a block."""
    monkeypatch.setattr("megatron_mplug2.data.remote_files.SLOWEST", 1 << 30)
    monkeypatch.setattr("megatron_mplug2.data.remote_files.ANSWER_S", 0.5)
    url, slow = f"{server.url}/image_text", "gave nothing, or fewer than 1073741824 bytes a second"
    server.pause_s = 0.002
    with pytest.raises(UserError, match=rf"image_text/index\.npy cannot be read: .*{slow}"):
        Manifest.load_all([url], storage(tmp_path / "cache"))
    server.pause_s = 0.0
    manifest = Manifest.load_all([url], storage(tmp_path / "cache"))
    server.pause_s = 0.002
    with pytest.raises(OSError, match=rf"00000\.tar: {slow}"):
        manifest.media(3)


def test_an_index_of_another_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "text", tmp_path / "mixed")
    shutil.copy(corpus / "image_text" / INDEX, tmp_path / "mixed" / INDEX)
    with (
        serving(tmp_path) as server,
        pytest.raises(UserError, match=r"mixed/index.npy cannot be read: .* not that of the manifest"),
    ):
        Manifest.load_all([f"{server.url}/mixed"], storage(tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob(f"*{INDEX}*"))


def test_a_server_without_ranges_is_told(corpus: Path, tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.load_all([f"{server.url}/image_text"], storage(tmp_path / "cache"))
    monkeypatch.setattr("megatron_mplug2.data.disk_cache.BLOCK_BYTES", 4096)
    monkeypatch.setattr("tests.data.range_server.re.fullmatch", lambda *_: None)
    with pytest.raises(OSError, match=r"00000.tar: 4096 bytes asked for at \d+, \d+ came"):
        manifest.media(3)


def test_s3(corpus: Path, tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket of one folder; the server knows S3's GET and HEAD of objects, not its signatures."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    manifest = Manifest.load_all(["s3://image_text"], storage(tmp_path / "cache"))
    expected = Manifest.load(corpus / "image_text")
    assert [manifest.media(i) for i in range(5)] == [expected.media(i) for i in range(5)]
    assert manifest.fingerprint == expected.fingerprint and server.asked.count("00000.tar") == 1
    with pytest.raises(UserError, match=r"s3://image_text/none has no manifest.json"):
        Manifest.load_all(["s3://image_text/none"], storage(tmp_path / "cache"))
