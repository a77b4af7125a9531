"""From the bytes of a picture or a clip and drawn parameters to a tensor: a pure function, with PIL and PyAV.

Pictures and frames are resized to a square with PIL's bicubic filter, aspect ratio not kept, as the released image transform does. Pictures
and clips are shown upright (EXIF orientation and rotation are applied): captions say left and right of what a person saw.
"""

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia
from megatron_mplug2.data.frame_sampling import frame_indices
from megatron_mplug2.data.video_file import VideoFacts, VideoFile

__all__ = ["FULL_VIEW", "PICTURE_FORMATS", "BadMedia", "VideoFacts", "View", "decode_image", "decode_video", "frame_indices", "probe_video"]

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP, github.com/openai/CLIP clip.py
DEVIATION = (0.26862954, 0.26130258, 0.27577711)

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_DRAFT = 2
"""A large JPEG is decoded at a half, a quarter or an eighth, but at no less than so many times the size that is needed."""

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides, after the draft


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

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge in pixels; not rounded."""
        side = math.sqrt(self.area)
        left, upper = self.x * (1 - side) * width, self.y * (1 - side) * height
        return left, upper, min(left + side * width, width), min(upper + side * height, height)


FULL_VIEW = View(area=1.0, x=0.0, y=0.0, flip=False)


def decode_image(data: bytes, resolution: int, view: View) -> torch.Tensor:
    """A picture as [3, 1, resolution, resolution] float32, normalised with CLIP's mean and deviation.

    Greyscale, 16 bit, palette and CMYK become RGB; what is transparent becomes white. Of an animation it takes the first frame.
    Raises BadMedia.
    """
    if not data:
        raise BadMedia("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            needed = math.ceil(_DRAFT * resolution / math.sqrt(view.area))
            image.draft("RGB", (needed, needed))
            if image.width * image.height > MAX_PIXELS:
                raise BadMedia(f"{image.width}x{image.height} pixels are too large")
            square = _square(_rgb(_upright(image)), resolution, view)
    except BadMedia:
        raise
    except Exception as error:  # PIL's readers raise whatever a damaged file leads them to
        raise BadMedia(f"not a readable picture: {str(error) or type(error).__name__}") from None
    return _normalise([square])


def decode_video(data: bytes, frames: int, resolution: int, view: View, segment_shares: Sequence[float] | None) -> torch.Tensor:
    """A clip as [3, frames, resolution, resolution] float32, normalised; `frame_indices` says which frames.

    Raises BadMedia, for damage only if it hits a frame that is needed.
    """
    with VideoFile(data) as video:
        indices = frame_indices(video.facts.frames, frames, segment_shares)
        squares = {index: _square(picture, resolution, view) for index, picture in video.pictures(indices)}
    return _normalise([squares[index] for index in indices])


def probe_video(data: bytes) -> VideoFacts:
    """A clip's facts without decoding it. Raises BadMedia."""
    with VideoFile(data) as video:
        return video.facts


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not spoil the picture
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit; PIL's own conversion clips to 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _square(picture: Image.Image, resolution: int, view: View) -> Image.Image:
    square = picture.resize((resolution, resolution), Image.Resampling.BICUBIC, box=view.box(*picture.size))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else square


def _normalise(squares: Sequence[Image.Image]) -> torch.Tensor:
    """[3, T, R, R] from T RGB pictures of R x R."""
    pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(3, 0, 1, 2).contiguous().float()
    mean, deviation = (torch.tensor(numbers).view(3, 1, 1, 1) for numbers in (MEAN, DEVIATION))
    return pixels.div_(255).sub_(mean).div_(deviation)
