"""Tells whether files that are named by the ends of their URLs are each one URL's."""

from array import array
from collections import defaultdict
from hashlib import blake2b

_BUCKETS = 1 << 16


class _Seen:
    """A set of texts that takes 8 bytes for each: 64-bit digests, so that 12 million (CC12M) differ but for a chance of 4 in a million."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))

    def add(self, text: str) -> bool:
        """Whether it is new."""
        digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        bucket = self._buckets[digest % _BUCKETS]
        if digest in bucket:
            return False
        bucket.append(digest)
        return True


class NamesOfUrls:
    """The names that URLs were given."""

    def __init__(self) -> None:
        self._urls, self._names = _Seen(), _Seen()

    def add(self, url: str, name: str, where: str) -> None:
        """Raises ValueError where another URL has the name: only one of the two can be in the folder. The same URL again is no fault."""
        if self._urls.add(url) and not self._names.add(name):
            raise ValueError(
                f"the URL in {where} ends in {name!r} as one before it does, so the picture may be the other's: "
                "download with img2dataset and read its tars as `webdataset`"
            )
