"""Pictures with PIL: any format, colour mode and orientation to upright RGB."""

import io
import math
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia
from megatron_mplug2.data.decoding.contract import PictureRequest

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_BITS, _MOST_BITS = 258, 16  # TIFF 6.0, BitsPerSample
_DRAFT = 2
"""A large JPEG is decoded at a half, a quarter or an eighth, but at no less than so many times the size that is needed."""

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides, after the draft


def read_picture(request: PictureRequest) -> Image.Image:
    """The upright picture in RGB, a large JPEG smaller than it is: captions say left and right of what a person saw.

    Greyscale, 16 bit, palette and CMYK become RGB; what is transparent becomes white. Of an animation it takes the first frame.
    Raises BadMedia.
    """
    if not request.data:
        raise BadMedia("empty file")
    try:
        with Image.open(io.BytesIO(request.data), formats=PICTURE_FORMATS) as image:
            needed = math.ceil(_DRAFT * request.transform.resolution / math.sqrt(request.transform.view.area))
            image.draft("RGB", (needed, needed))
            if image.width * image.height > MAX_PIXELS:
                raise BadMedia(f"{image.width}x{image.height} pixels are too large")
            if _is_measured(image):
                raise BadMedia("its levels are real numbers or have 32 bits, and nothing says which is white")
            return _rgb(_upright(image))
    except BadMedia:
        raise
    except UnidentifiedImageError:  # its own text names an address in memory, which would make every listing another one
        raise BadMedia("not a readable picture: of no known format") from None
    except Exception as error:  # PIL's readers raise whatever a damaged file leads them to
        raise BadMedia(f"not a readable picture: {str(error) or type(error).__name__}") from None


def _is_measured(image: Image.Image) -> bool:
    """Whether it holds measurements rather than levels from black to white. (PIL's mode "I" is of 16 bits in all formats but TIFF.)"""
    bits = image.tag_v2.get(_BITS, (1,)) if isinstance(image, TiffImageFile) else (1,)
    return image.mode == "F" or max(bits) > _MOST_BITS


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
