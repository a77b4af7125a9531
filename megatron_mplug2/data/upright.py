"""A decoded frame as a person sees it: turned, in RGB."""

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia


def quarter_turns(frame: av.VideoFrame) -> int:
    """By how many, 0 to 3, the frame is to be turned counterclockwise to be shown; the container may say it in other degrees."""
    return round(frame.rotation / 90) % 4


def upright_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """[H, W, 3], turned as the container says it is to be shown. Raises BadMedia."""
    if frame.width * frame.height > MAX_PIXELS:
        raise BadMedia(f"frames of {frame.width}x{frame.height} pixels are too large")
    try:
        # One thread: by default swscale starts one a core for every frame, which costs ten times a small frame's conversion.
        pixels = frame.to_ndarray(format="rgb24", threads=1).view(np.uint8)
    except (FFmpegError, ValueError) as error:
        raise BadMedia(f"frame not convertible: {reason_of(error)}") from None
    turns = quarter_turns(frame)
    # Of one pixel a side, NumPy takes any order as contiguous.
    return np.rot90(pixels, turns).copy() if turns else np.ascontiguousarray(pixels)


def reason_of(error: Exception) -> str:
    """FFmpeg's own words."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
