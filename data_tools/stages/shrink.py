"""A picture made small for training."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A JPEG, and the shares of the upright picture's width and height that are left."""

    data: bytes
    across: float
    down: float


def shrink_picture(data: bytes, short_side: int) -> Shrunk | None:
    """A JPEG (quality 90) of the upright picture with its short side at `short_side` pixels; None where that is no less than it has.

    Greyscale stays so, every other mode becomes RGB; what is transparent becomes white. Raises BadMedia.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if min(image.size) <= short_side:
                return None
            stored = image.size
            image.draft("RGB", (2 * short_side, 2 * short_side))  # a large JPEG is decoded at a half, a quarter or an eighth
            if image.width * image.height > MAX_PIXELS:
                raise BadMedia(f"{image.width}x{image.height} pixels are too large")
            image.load()
            upright = _jpeg_mode(_upright(image))
            before = stored if upright.size == image.size else stored[::-1]
    except BadMedia:
        raise
    except Exception as error:  # PIL's readers raise whatever a damaged file leads them to
        raise BadMedia(f"not a readable picture: {str(error) or type(error).__name__}") from None
    scale = short_side / min(upright.size)
    width, height = (max(1, round(side * scale)) for side in upright.size)
    file = io.BytesIO()
    upright.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=_QUALITY)
    return Shrunk(data=file.getvalue(), across=width / before[0], down=height / before[1])


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not spoil the picture
        return image


def _jpeg_mode(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit; PIL's own conversion clips to 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")
