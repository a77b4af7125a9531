"""How many frames an MP4 claims to list, seen before FFmpeg makes room for them: the claim may take no more than twenty bytes."""

import struct

_SMALL = 1 << 22
"""Samples for which there is room in any case, in 0.2 GB. A file that is cut off may list more than it has bytes."""


def lists_too_many(data: bytes) -> bool:
    """Whether a table of samples (stsz; ISO 14496-12, 8.7.3.2) that gives them all one size lists more than the file can hold."""
    start, end = _movie(data)
    place = data.find(b"stsz", start, end)
    while 0 <= place <= end - 16:
        _, size, count = struct.unpack_from(">III", data, place + 4)
        if size and count > max(len(data), _SMALL):
            return True
        place = data.find(b"stsz", place + 4, end)
    return False


def _movie(data: bytes) -> tuple[int, int]:
    """Where the box of the tables begins and ends; two zeros where there is none."""
    at = 0
    while at + 16 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if name == b"moov":
            return at, min(at + size, len(data)) if size else len(data)
        if size < 8:
            break
        at += size
    return 0, 0
