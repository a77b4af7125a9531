"""Clips of any codec, with drawn frames whose number and colours can be read off a decoded frame."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from tests.data.media import Pixels

COLORS = ((200, 40, 40), (40, 180, 60), (50, 60, 200), (210, 200, 60))
"""Left upper, right upper, left lower and right lower quarter of a drawn frame."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How a clip is coded."""

    encoder: str = "libx264"
    form: str = "mp4"
    width: int = 96
    height: int = 64
    pix_fmt: str = "yuv420p"
    frames: int = 12
    gop: int = 5
    matrix: Colorspace = Colorspace.ITU601
    full_range: bool = False
    declared: bool = True
    """Whether the stream says which matrix and range it has."""
    times: tuple[int, ...] = ()
    """Eighths of a second at which the frames come on; 0, 1, 2 ... where empty."""
    turned: float = 0
    """Degrees counterclockwise."""
    options: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        file = io.BytesIO()
        with av.open(file, "w", format=self.form) as container:
            stream = container.add_stream(self.encoder, rate=8, options=self.options)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pix_fmt
            if self.turned:
                stream.set_display_rotation(self.turned)
            context = stream.codec_context
            context.gop_size = self.gop
            context.bit_rate = 4_000_000
            span = ColorRange.JPEG if self.full_range else ColorRange.MPEG
            if self.declared:
                context.colorspace, context.color_range = int(self.matrix), int(span)
            for number in range(self.frames):
                rgb = av.VideoFrame.from_ndarray(drawn_frame(number, self.width, self.height), format="rgb24")
                frame = rgb.reformat(
                    format=self.pix_fmt, src_color_range=ColorRange.JPEG, dst_color_range=span, dst_colorspace=self.matrix, threads=1
                )
                frame.pts, frame.time_base = self.times[number] if self.times else number, Fraction(1, 8)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.getvalue()


def drawn_frame(number: int, width: int, height: int) -> Pixels:
    """Four coloured quarters; in the middle of each its bit of the frame's number as a white or black square."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for place, (rows, columns) in enumerate(_quarters(width, height)):
        pixels[rows, columns] = COLORS[place]
        pixels[_middle(rows), _middle(columns)] = 255 if number >> place & 1 else 0
    return pixels


def number_of(frame: Pixels) -> int:
    """The number of a drawn frame, whatever its size: [H, W, 3]."""
    squares = _quarters(frame.shape[1], frame.shape[0])
    return sum(int(frame[_middle(rows), _middle(columns)].mean() > 127) << place for place, (rows, columns) in enumerate(squares))


def numbers_of(frames: Pixels) -> list[int]:
    """Of [T, H, W, 3]."""
    return [number_of(frame) for frame in frames]


def color_error(frame: Pixels, colors: Sequence[tuple[int, int, int]] = COLORS) -> float:
    """The largest difference of a quarter's colour, near its outer corner, from what was drawn."""
    rows, columns = (side // 8 for side in frame.shape[:2])
    corners = (frame[:rows, :columns], frame[:rows, -columns:], frame[-rows:, :columns], frame[-rows:, -columns:])
    return max(float(abs(corner.reshape(-1, 3).mean(0) - color).max()) for corner, color in zip(corners, colors, strict=True))


def _quarters(width: int, height: int) -> list[tuple[slice, slice]]:
    upper, lower = slice(0, height // 2), slice(height // 2, height)
    left, right = slice(0, width // 2), slice(width // 2, width)
    return [(upper, left), (upper, right), (lower, left), (lower, right)]


def _middle(side: slice) -> slice:
    size = side.stop - side.start
    return slice(side.start + size // 3, side.stop - size // 3)
