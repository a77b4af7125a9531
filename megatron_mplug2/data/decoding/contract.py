"""What a decoder is asked for and what it answers: pure functions from bytes and drawn parameters to tensors, whichever library decodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.augment import Operation


@dataclass(frozen=True, kw_only=True)
class View:
    """The part of a picture, or of all frames of a clip, that the model sees: a crop with the picture's own aspect ratio."""

    area: float
    """Share of the picture's area, in (0, 1]."""
    x: float
    """Place of the crop, from 0 (left edge) to 1 (right edge)."""
    y: float
    """From 0 (upper edge) to 1 (lower edge)."""
    flip: bool
    """Mirror left and right."""

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in whole pixels, at least one apart."""
        left, right = _stretch(self.x, math.sqrt(self.area), width)
        upper, lower = _stretch(self.y, math.sqrt(self.area), height)
        return left, upper, right, lower


def _stretch(place: float, share: float, pixels: int) -> tuple[int, int]:
    size = max(round(share * pixels), 1)
    start = round(place * (pixels - size))
    return start, start + size


FULL_VIEW = View(area=1.0, x=0.0, y=0.0, flip=False)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """From upright pixels to the square that the model sees: crop, resize, flip, operations, in this order."""

    resolution: int
    """Side of the square in pixels; the aspect ratio is not kept, as released."""
    view: View = FULL_VIEW
    resize: ResizeFilter = ResizeFilter.BICUBIC
    """Of a clip; pictures are always resized with the bicubic filter, as released."""
    operations: tuple[Operation, ...] = ()
    """RandAugment's, the same for all frames."""


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    data: bytes
    transform: Transform


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    data: bytes
    frames: int
    segment_shares: Sequence[float] | None
    """Which frames, see `frame_indices`: a number in [0, 1) for each segment, or None for their middles."""
    span_s: tuple[float, float] | None = None
    """Start and end in seconds from the first frame: only frames that come on between them; None for the whole clip."""
    transform: Transform


Decoded = torch.Tensor | BadMedia
"""[3, T, R, R] uint8, RGB, T=1 for a picture; or why there is none."""


class Decoder(Protocol):
    """Answers are in the order of the requests, and each depends on its own request alone: not on the others, the process, or what was
    decoded before."""

    def pictures(self, requests: Sequence[PictureRequest]) -> list[Decoded]: ...

    def clips(self, requests: Sequence[ClipRequest]) -> list[Decoded]: ...
