"""Pictures inside a page."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from megatron_mplug2.data.decode import DEVIATION, MEAN

_QUALITY = 80

Levels = NDArray[np.uint8]
"""[H, W, 3]."""


def levels(pixels: torch.Tensor) -> Levels:
    """[3, H, W] normalised pixels, as a decoder gives them, as a picture's."""
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
    found: Levels = ((pixels * deviation + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return found


def jpeg(picture: Levels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def picture_source(picture: Levels) -> str:
    """The address of a picture that holds itself, for an `<img>`."""
    return jpeg_source(jpeg(picture))


def jpeg_source(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
