"""A picture made small for training."""

import io
from dataclasses import dataclass

from PIL import Image

from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.contract import PictureRequest, Transform
from megatron_mplug2.data.decoding.pictures import read_picture
from megatron_mplug2.data.probing import picture_facts

_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A JPEG, and the shares of the upright picture's width and height that are left."""

    data: bytes
    across: float
    down: float


def shrink_picture(data: bytes, short_side: int) -> Shrunk | None:
    """An RGB JPEG (quality 90) of the upright picture with its short side at `short_side` pixels; None where it has no more than that.

    Raises BadMedia.
    """
    facts = picture_facts(data)
    shortest = min(facts.width, facts.height)
    if shortest <= short_side:
        return None
    picture = read_picture(PictureRequest(data=data, transform=Transform(resolution=short_side)))
    width, height = (max(1, round(side * short_side / shortest)) for side in (facts.width, facts.height))
    file = io.BytesIO()
    try:
        picture.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=_QUALITY)
    except OSError:  # longer than JPEG allows
        raise BadMedia(f"shrunk to {width}x{height} pixels it cannot be written as JPEG") from None
    return Shrunk(data=file.getvalue(), across=width / facts.width, down=height / facts.height)
