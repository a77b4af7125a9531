"""How many frames an MP4 claims to list, seen before FFmpeg makes room for them: the claim may take no more than twenty bytes."""

import struct
from collections.abc import Iterator

_SMALL = 1 << 22
"""Samples for which there is room in any case, in 0.2 GB. A file that is cut off may list more than it has bytes."""
_HOLDING = set(b"moov moof trak traf mvex mdia minf stbl meta udta edts dinf ilst tref sinf schi wave stsz tfhd trun".split())
"""Outermost boxes in which FFmpeg finds tables; in the bytes of others any name may come up by chance."""


def lists_too_many(data: bytes) -> bool:
    """Whether the table of samples that gives them all one size (stsz; ISO 14496-12, 8.7.3.2), or all runs of a fragmented file together
    (trun; 8.8.8.2), list more than the file can hold. FFmpeg takes a run only behind a header (tfhd): a title may hold the name."""
    most, in_runs, headed = max(len(data), _SMALL), 0, False
    for start, end in _tables(data):
        for place in _found(data, b"stsz", start, end):
            _, size, count = struct.unpack_from(">III", data, place + 4)
            if size and count > most:
                return True
        first = start if headed else data.find(b"tfhd", start, end)
        headed = first >= 0
        for place in _found(data, b"trun", first, end) if headed else ():
            in_runs += struct.unpack_from(">II", data, place + 4)[1]
    return in_runs > most


def _found(data: bytes, name: bytes, start: int, end: int) -> Iterator[int]:
    """Where a box of this name may begin, that has room for three numbers."""
    place = data.find(name, start, end)
    while 0 <= place <= end - 16:
        yield place
        place = data.find(name, place + 4, end)


def _tables(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the boxes that hold tables begin and end."""
    at = 0
    while at + 16 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        end = min(at + size, len(data)) if size else len(data)
        if name in _HOLDING:
            yield at, end
        if end < at + 8:
            break
        at = end
