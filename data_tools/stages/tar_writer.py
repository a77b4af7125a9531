"""Tars as webdataset reads them: the files of a sample stand together and share the name before the first dot."""

import re
import tarfile
from typing import IO

from data_tools.sample import Sample
from data_tools.stages.digest import Digesting
from data_tools.stages.rows import Stored
from megatron_mplug2.data.index_row import KEY_LENGTH
from megatron_mplug2.data.manifest import Shard

TEXTS = "json"
"""Ending of a sample's texts."""
SECOND = "second."
"""Before the ending of the other picture of a pair."""
_LONGEST_ENDING = 16
BYTES_A_MEMBER = 2 * tarfile.BLOCKSIZE - 1
"""Most bytes that a member takes beside its contents: a header, and zeros up to the next block."""
BYTES_AT_END = tarfile.RECORDSIZE
"""Most bytes that end a tar."""


class TarWriter:
    """A tar of plain files. The same files give the same bytes: USTAR, no owners, time 0."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = Digesting(file)

    def add(self, name: str, data: bytes) -> Stored:
        """`name` is ASCII, at most 100 characters."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._file.size
        self._file.write(data)
        self._fill(tarfile.BLOCKSIZE)
        return Stored(offset=offset, data=data)

    def close(self, name: str) -> Shard:
        """Ends the tar, which will be called `name`."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._fill(tarfile.RECORDSIZE)
        return Shard(name=name, size=self._file.size, sha256=self._file.sha256)

    def _fill(self, unit: int) -> None:
        self._file.write(bytes(-self._file.size % unit))


def member_key(place: int, sample: Sample) -> str:
    """The name of a sample's files before the dot, from its place in its folder and its own name in the corpus: unique, letters, digits,
    "_" and "-" only, at most KEY_LENGTH."""
    return f"{place:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', sample.key[:KEY_LENGTH])}"[:KEY_LENGTH]


def ending(extension: str) -> str:
    """A file name's extension (".JPG") as a member's: without the dot, in lower case, and never that of the texts."""
    plain = re.sub(r"[^a-z0-9]", "", extension.lower())[:_LONGEST_ENDING] or "bin"
    return "bin" if plain == TEXTS else plain
