"""Pictures as JPEG and clips as H.264 in MP4: the same bytes for the same pixels and versions of the libraries."""

import io
from fractions import Fraction

import av
from PIL import Image

from data_tools.demo.drawing import Pixels

FPS = 8
FRAMES_PER_STEP = 2
"""Frames that show the same picture: 4 frames sampled from a clip's 8 in equal segments show each of its 4 steps once."""


def jpeg(pixels: Pixels) -> bytes:
    """Quality 95 with full color resolution."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def mp4(steps: list[Pixels]) -> bytes:
    """A clip of FRAMES_PER_STEP frames for each step, FPS frames a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "16", "preset": "veryfast"})
        stream.height, stream.width = steps[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(len(steps) * FRAMES_PER_STEP):
            frame = av.VideoFrame.from_ndarray(steps[number // FRAMES_PER_STEP], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
