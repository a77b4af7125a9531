"""What the frames of a clip say of their own size and format, read from their first bytes: nothing is decoded."""

import struct
from collections.abc import Callable, Iterator, Mapping

Form = Mapping[str, bytes | int]
"""What a frame names by itself. What it does not name it takes over from the frames before."""

_VP8_NO_KEY, _VP8_MARK = 0x01, b"\x9d\x01\x2a"
_VP9_MARKER, _VP9_SUPERFRAME, _VP9_SRGB = 2, 0xC0, 7
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF; the others are tables (ITU-T T.81, table B.1)
_H264_SPS, _HEVC_SPS = 7, 33  # ITU-T H.264, table 7-1; H.265, table 7-1

UNKNOWN: Form = {"unknown": 1}
"""Of a frame that is not understood."""


def forms_of(codec: str, frame: memoryview, extradata: bytes) -> Iterator[Form]:
    """Of a packet, for each frame in it; `extradata` is what the container says to the decoder. For codecs that DALI decodes."""
    try:
        yield from _READERS[codec](frame, extradata)
    except (IndexError, struct.error):
        yield UNKNOWN


def _vp8(frame: memoryview, _: bytes) -> Iterator[Form]:
    """RFC 6386, 9.1: after three bytes a key frame has three of a mark and four of its size."""
    if not frame[0] & _VP8_NO_KEY:
        mark, size = struct.unpack_from(">3sI", frame, 3)
        yield {"size": size} if mark == _VP8_MARK else UNKNOWN


def _vp9(packet: memoryview, _: bytes) -> Iterator[Form]:
    """Of all frames of a superframe (VP9 bitstream specification 0.6, annex B)."""
    last = packet[-1]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    index = packet[-2 - count * width :]
    if last & 0xE0 != _VP9_SUPERFRAME or index[0] != last:
        yield _vp9_frame(packet)
        return
    start = 0
    for number in range(count):
        size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
        if size:
            yield _vp9_frame(packet[start : start + size])
        start += size


class _Bits:
    def __init__(self, data: memoryview) -> None:
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def take(self, count: int) -> int:
        """Raises IndexError behind the end."""
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << count) - 1


def _vp9_frame(frame: memoryview) -> Form:
    """6.2 of the specification, of the only profile in 4:2:0 with 8 bits. A frame that is predicted may name a size, too."""
    bits = _Bits(frame[:20])
    if bits.take(2) != _VP9_MARKER or bits.take(2):
        return UNKNOWN
    if bits.take(1):  # shows one that was decoded before
        return {}
    predicted, shown, resilient = bits.take(1), bits.take(1), bits.take(1)
    if not predicted:
        bits.take(24)
        colors = bits.take(3)
        return UNKNOWN if colors == _VP9_SRGB else {"colors": colors << 1 | bits.take(1), "size": bits.take(32)}
    only_intra = 0 if shown else bits.take(1)
    bits.take(0 if resilient else 2)
    if only_intra:
        bits.take(24 + 8)
        return {"size": bits.take(32)}
    bits.take(8 + 3 * 4)
    return {} if any(bits.take(1) for _ in range(3)) else {"size": bits.take(32)}


def _mjpeg(picture: memoryview, _: bytes) -> Iterator[Form]:
    """The head of the frame: size, bits and how colours are sampled."""
    at = 2
    while picture[at] == 0xFF and (kind := picture[at + 1]) != 0xDA:
        (size,) = struct.unpack_from(">H", picture, at + 2)
        if kind in _JPEG_FRAMES:
            yield {"head": bytes(picture[at : at + 2 + size])}
            return
        at += 2 + size
    yield UNKNOWN


def _h264(packet: memoryview, extradata: bytes) -> Iterator[Form]:
    """The sets of parameters that hold size and colours: the container's (ISO 14496-15, 5.3.3.1), and those that lie between frames."""
    if extradata[0] != 1 or extradata[5] & 0x1F != 1:
        yield UNKNOWN
        return
    (size,) = struct.unpack_from(">H", extradata, 6)
    yield {"parameters": extradata[8 : 8 + size]}
    for unit in _units(packet, (extradata[4] & 3) + 1):
        if unit[0] & 0x1F == _H264_SPS:
            yield {"parameters": bytes(unit)}


def _hevc(packet: memoryview, extradata: bytes) -> Iterator[Form]:
    """Likewise (8.3.3.1)."""
    held = [unit for unit in _hevc_held(extradata) if unit[0] >> 1 & 0x3F == _HEVC_SPS]
    if extradata[0] != 1 or len(held) != 1:
        yield UNKNOWN
        return
    yield {"parameters": held[0]}
    for unit in _units(packet, (extradata[21] & 3) + 1):
        if unit[0] >> 1 & 0x3F == _HEVC_SPS:
            yield {"parameters": bytes(unit)}


def _hevc_held(extradata: bytes) -> Iterator[bytes]:
    at = 23
    for _ in range(extradata[22]):
        (count,) = struct.unpack_from(">H", extradata, at + 1)
        at += 3
        for _ in range(count):
            (size,) = struct.unpack_from(">H", extradata, at)
            yield extradata[at + 2 : at + 2 + size]
            at += 2 + size


def _units(packet: memoryview, length: int) -> Iterator[memoryview]:
    """Each with its length in so many bytes before it."""
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + length])
        yield packet[at + length : at + length + size]
        at += length + size


_READERS: Mapping[str, Callable[[memoryview, bytes], Iterator[Form]]] = {
    "vp8": _vp8,
    "vp9": _vp9,
    "mjpeg": _mjpeg,
    "h264": _h264,
    "hevc": _hevc,
}
