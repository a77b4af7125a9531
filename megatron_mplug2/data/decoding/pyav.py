"""Decodes on the CPU with PIL and PyAV (FFmpeg): everything, one by one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from megatron_mplug2.config.schema import ResizeFilter
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
    """[3, 1, R, R] float32. Raises BadMedia."""
    return finished(_bicubic([read_picture(request)], request.transform), request.transform.operations)


def decode_clip(request: ClipRequest) -> torch.Tensor:
    """[3, T, R, R] float32. Raises BadMedia, for damage only if it hits a frame that is needed."""
    with VideoFile(request.data) as video:
        frames = read_frames(video, chosen_frames(video, request))
    resized = _nearest if request.transform.resize is ResizeFilter.NEAREST else _bicubic
    return finished(resized(frames, request.transform), request.transform.operations)


def _bicubic(pictures: Sequence[Image.Image], transform: Transform) -> torch.Tensor:
    """[T, R, R, 3] uint8."""
    side, view = transform.resolution, transform.view
    squares = [picture.resize((side, side), Image.Resampling.BICUBIC, box=view.box(*picture.size)) for picture in pictures]
    stacked = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    return stacked.flip(2) if view.flip else stacked


def _nearest(pictures: Sequence[Image.Image], transform: Transform) -> torch.Tensor:
    """[T, R, R, 3] uint8 by torch's "nearest": the pixel at floor(place * size / R), where PIL takes the one under the middle. So the
    released code resizes the clips that it tests with (a square, no crop); its figures were measured so."""
    if transform.view != FULL_VIEW:
        raise ValueError("the nearest-neighbour filter is for whole frames")
    frames = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(frames, size=(transform.resolution, transform.resolution), mode="nearest").permute(0, 2, 3, 1)


def _caught(decode: Callable[[Request], torch.Tensor], request: Request) -> Decoded:
    try:
        return decode(request)
    except BadMedia as bad:
        return bad
