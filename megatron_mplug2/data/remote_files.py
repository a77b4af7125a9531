"""A stream's folder behind http(s) or s3, read in ranges through fsspec and kept in the node's cache."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.exceptions import FSTimeoutError

from megatron_mplug2.data.disk_cache import DiskCache
from megatron_mplug2.data.locked import locked
from megatron_mplug2.data.quarantine import retried
from megatron_mplug2.data.tar_files import CHUNK, Shard
from megatron_mplug2.errors import UserError

ANSWER_S = 60.0
"""Seconds without a byte after which a request counts as failed."""
SLOWEST = 1 << 16
"""Bytes a second. A request that takes ANSWER_S longer than all its bytes would at this pace counts as failed, however often some come."""
_SMALL = 32 << 20
"""Bytes of the largest manifest that may be so slow: of 200,000 tars."""

_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

T = TypeVar("T")


class RemoteFiles:
    """Credentials and endpoints are those of the environment and of ~/.aws, as s3fs reads them."""

    def __init__(self, url: str, cache_folder: Path, limit_bytes: int) -> None:
        """Raises UserError for a cache folder that cannot be written: index files are mapped from there."""
        self._url = url.rstrip("/")
        self._folder = cache_folder
        self._cache = DiskCache(cache_folder, limit_bytes)
        self._process = -1
        try:
            self._cache.check_writable()
        except OSError as error:
            raise _unwritable(cache_folder, error) from None

    def whole(self, name: str) -> bytes:
        content: bytes = retried(lambda: self._asked(name, lambda path: self._files.cat_file(path, timeout=_longest_s(_SMALL))))
        return content

    def on_disk(self, name: str, sha256: str, size: int) -> Path:
        """Fetched once a node. An index may have gigabytes, so it is checked only when it comes."""
        path = self._folder / f"{sha256}-{name}"
        with locked(self._folder / "locks" / path.name):
            if not path.exists():
                part = path.with_name(path.name + ".part")
                retried(lambda: self._asked(name, lambda remote: self._fetched(remote, part, size)))
                with part.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != sha256:
                    part.unlink()
                    raise OSError(f"{self._url}/{name} is damaged or of another corpus: its SHA-256 is not that of the manifest")
                part.replace(path)
        return path

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        return self._cache.read(shard.sha256, shard.size, offset, size, lambda start, end: self._range(shard.name, start, end))

    def chunks(self, shard: Shard) -> Iterator[bytes]:
        for start in range(0, shard.size, CHUNK):
            yield self._range(shard.name, start, min(start + CHUNK, shard.size))

    def forget(self, shard: Shard, offset: int, size: int) -> bool:
        return self._cache.forget(shard.sha256, offset, size)

    def fault(self, shard: Shard) -> str | None:
        """None: a question for each of thousands of tars takes minutes. A tar that is missing is found when it is read."""
        return None

    def close(self) -> None:
        """There are no handles."""

    @property
    def _files(self) -> Any:
        if self._process != os.getpid():  # fsspec's file systems are of one process
            self._process, self._file_system = os.getpid(), _file_system(self._url)
        return self._file_system

    def _fetched(self, remote: str, part: Path, size: int) -> None:
        try:
            self._files.get_file(remote, str(part), timeout=_longest_s(size))
        except OSError as error:  # the network's kinds of errors are OSErrors too
            if error.errno in _DISK_FAULTS:
                raise _unwritable(self._folder, error) from None
            raise

    def _range(self, name: str, start: int, end: int) -> bytes:
        longest = _longest_s(end - start)
        data: bytes = self._asked(name, lambda path: self._files.cat_file(path, start=start, end=end, timeout=longest))
        if len(data) != end - start:
            raise OSError(f"{self._url}/{name}: {end - start} bytes asked for at {start}, {len(data)} came")
        return data

    def _asked(self, name: str, ask: Callable[[str], T]) -> T:
        path = f"{self._url}/{name}"
        try:
            return ask(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is not there") from None
        except (UserError, KeyboardInterrupt):
            raise
        except FSTimeoutError:
            raise OSError(f"{path}: gave nothing, or fewer than {SLOWEST} bytes a second") from None
        except Exception as error:  # of aiohttp, botocore and fsspec: many kinds, and none of ours
            raise OSError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _longest_s(size: int) -> float:
    """How long a request for so many bytes may take. fsspec ends it then; the settings of aiohttp and botocore below end what stalls."""
    return ANSWER_S + size / SLOWEST


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"data.cache.folder={folder} cannot be written ({error.strerror}): name a folder on a disk of this node that can")


def _file_system(url: str) -> Any:
    scheme = url.partition("://")[0]
    try:
        if scheme == "s3":
            return fsspec.filesystem("s3", config_kwargs={"read_timeout": ANSWER_S, "connect_timeout": ANSWER_S})
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=ANSWER_S, sock_read=ANSWER_S)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout})
    except ImportError:
        raise UserError(f"{url}: reading {scheme} needs packages that are not installed: pip install 'megatron-mplug2[remote]'") from None
