"""Small real media files for tests."""

import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from megatron_mplug2.data.video_file import VideoFacts, VideoFile

Pixels = NDArray[np.uint8]


def encoded(pixels: NDArray[Any], form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def gradient(height: int = 48, width: int = 64) -> Pixels:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 255 // (width - 1), rows * 255 // (height - 1), np.full_like(rows, 40)], -1).astype(np.uint8)


def grey_clip(
    levels: list[int],
    *,
    form: str = "mp4",
    keyframe_every: int = 12,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    turned: float = 0,
) -> bytes:
    """An H.264 clip of one flat grey frame of 64x48 for each level; `times` are eighths of a second, `turned` degrees counterclockwise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        with av.open(str(path), "w", format=form, options=options or {}) as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.gop_size = keyframe_every
            if turned:
                stream.set_display_rotation(turned)
            for number, level in zip(times or range(len(levels)), levels, strict=True):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 8)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path.read_bytes()


def facts_of(data: bytes) -> VideoFacts:
    """Of a clip, without decoding it. Raises BadMedia."""
    with VideoFile(data) as video:
        return video.facts
