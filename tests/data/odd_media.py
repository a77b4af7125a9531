"""Media that are odd and must be decoded right, with the frames that a person sees; and media that cannot be used, by what is wrong."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

from megatron_mplug2.data.video_file import VideoFile
from tests.data.media import Pixels

SIDE = 48


@dataclass(frozen=True, kw_only=True)
class OddMedia:
    data: bytes
    shown: tuple[Pixels, ...]
    """The frames, upright: [H, W, 3]."""


def marked(number: int, height: int = SIDE, width: int = SIDE) -> Pixels:
    """A grey frame whose level tells its number, below 12; its left upper quarter is bright."""
    frame = np.full((height, width, 3), 20 + 12 * number, np.uint8)
    frame[: height // 2, : width // 2] = 235
    return frame


def clip(
    frames: Sequence[Pixels],
    times: Sequence[int],
    *,
    form: str = "mp4",
    encoder: str = "libx264",
    pix_fmt: str = "yuv420p",
    keyframe_every: int = 4,
) -> bytes:
    """`times`: of each frame, in tenths of a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(encoder, rate=10, options={"crf": "8"} if encoder == "libx264" else {})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.time_base = Fraction(1, 10)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def odd_clips() -> dict[str, OddMedia]:
    frames = [marked(number) for number in range(8)]
    odd_size = [marked(number, 33, 47) for number in range(8)]
    turned = [np.ascontiguousarray(np.rot90(frame, -1)) for frame in frames]  # clockwise
    evenly = range(8)
    return {
        "one-frame": OddMedia(data=clip(frames[:1], [0]), shown=tuple(frames[:1])),
        "ten-bit": OddMedia(data=clip(frames, evenly, pix_fmt="yuv420p10le"), shown=tuple(frames)),
        "rotated": OddMedia(data=_turned_clockwise(clip(frames, evenly)), shown=tuple(turned)),
        "variable-rate": OddMedia(data=clip(frames, [0, 1, 2, 10, 11, 12, 40, 41]), shown=tuple(frames)),
        "odd-size": OddMedia(data=clip(odd_size, evenly, pix_fmt="yuv444p"), shown=tuple(odd_size)),
        "late-start": OddMedia(data=clip(frames, range(50, 58), form="matroska"), shown=tuple(frames)),
        "late-start-ts": OddMedia(data=clip(frames, range(50, 58), form="mpegts"), shown=tuple(frames)),
    }


def _turned_clockwise(data: bytes) -> bytes:
    """Writes a quarter turn into an MP4's track header (ISO 14496-12, 8.3.2): a point (x, y) is shown at (-y, x)."""
    place = data.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return data[:place] + matrix + data[place + len(matrix) :]


def odd_pictures() -> dict[str, OddMedia]:
    picture, odd_size = marked(3), marked(5, 33, 47)
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    return {
        "grey": OddMedia(data=_jpeg(picture, "L"), shown=(picture,)),
        "cmyk": OddMedia(data=_jpeg(picture, "CMYK"), shown=(picture,)),
        "odd-size": OddMedia(data=_jpeg(odd_size, "RGB"), shown=(odd_size,)),
        "turned": OddMedia(data=_jpeg(picture, "RGB", exif=upside_down), shown=(picture[::-1, ::-1],)),
    }


def _jpeg(pixels: Pixels, mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def bad_pictures() -> dict[str, bytes]:
    whole = _jpeg(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8), "RGB")
    return {"truncated": whole[: len(whole) // 2], "garbage": np.random.default_rng(1).bytes(500)}


def bad_clips() -> dict[str, bytes]:
    frames = [marked(number) for number in range(12)]
    whole = clip(frames, range(12))
    return {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "wrong-codec": clip(frames, range(12), form="avi", encoder="mpeg4").replace(b"FMP4", b"ZZZZ"),
        "wrong-extension": _jpeg(marked(0), "RGB"),
        "zero-frames": _without_frames(),
        "late-error": _damaged_from(whole, 4),
    }


def _without_frames() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    return file.getvalue()


def _damaged_from(data: bytes, number: int) -> bytes:
    """An MP4 whose frames from a key frame on are zeros; its beginning and its tables are sound."""
    with VideoFile(data) as video:
        entries = list(video._stream.index_entries)[number:]
        places = [(entry.pos, entry.size) for entry in entries]
    damaged = bytearray(data)
    for start, size in places:
        damaged[start : start + size] = bytes(size)
    return bytes(damaged)
