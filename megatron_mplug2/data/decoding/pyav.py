"""Decodes on the CPU with PIL and PyAV (FFmpeg): everything, one by one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.clips import chosen_frames, read_frames
from megatron_mplug2.data.decoding.contract import FULL_VIEW, ClipRequest, Decoded, PictureRequest, Transform
from megatron_mplug2.data.decoding.pictures import read_picture
from megatron_mplug2.data.decoding.pixels import finished
from megatron_mplug2.data.video_file import VideoFile

Request = TypeVar("Request", PictureRequest, ClipRequest)


class PyavDecoder:
    """A `Decoder`. Holds nothing."""

    def pictures(self, requests: Sequence[PictureRequest]) -> list[Decoded]:
        return [_caught(decode_picture, request) for request in requests]

    def clips(self, requests: Sequence[ClipRequest]) -> list[Decoded]:
        return [_caught(decode_clip, request) for request in requests]


def decode_picture(request: PictureRequest) -> torch.Tensor:
    """[3, 1, R, R] uint8. Raises BadMedia."""
    return finished(_squares([np.array(read_picture(request))], request.transform, ResizeFilter.BICUBIC), request.transform.operations)


def decode_clip(request: ClipRequest) -> torch.Tensor:
    """[3, T, R, R] uint8. Raises BadMedia, for damage only if it hits a frame that is needed."""
    with VideoFile(request.data) as video:
        frames = read_frames(video, chosen_frames(video, request))
    return finished(_squares(frames, request.transform, request.transform.resize), request.transform.operations)


def _squares(frames: Sequence[NDArray[np.uint8]], transform: Transform, resize: ResizeFilter) -> torch.Tensor:
    """[T, 3, R, R] uint8."""
    resized = _nearest if resize is ResizeFilter.NEAREST else _bicubic
    squares = torch.cat([resized(frame, transform) for frame in frames])
    return squares.flip(3) if transform.view.flip else squares


def _bicubic(frame: NDArray[np.uint8], transform: Transform) -> torch.Tensor:
    """[1, 3, R, R]: the same levels as PIL's filter gives for the part that is cut out, in a tenth of its time where there is AVX2."""
    left, upper, right, lower = transform.view.box(frame.shape[1], frame.shape[0])
    part = torch.from_numpy(frame[upper:lower, left:right]).permute(2, 0, 1).unsqueeze(0)
    side = (transform.resolution, transform.resolution)
    return torch.nn.functional.interpolate(part, size=side, mode="bicubic", antialias=True)


def _nearest(frame: NDArray[np.uint8], transform: Transform) -> torch.Tensor:
    """[1, 3, R, R] by torch's "nearest": the pixel at floor(place * size / R), where PIL takes the one under the middle. So the released
    code resizes the clips that it tests with (a square, no crop); its figures were measured so."""
    if transform.view != FULL_VIEW:
        raise ValueError("the nearest-neighbour filter is for whole frames")
    whole = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0)
    return torch.nn.functional.interpolate(whole, size=(transform.resolution, transform.resolution), mode="nearest")


def _caught(decode: Callable[[Request], torch.Tensor], request: Request) -> Decoded:
    try:
        return decode(request)
    except BadMedia as bad:
        return bad
