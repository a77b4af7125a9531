"""Pictures inside a page."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

_QUALITY = 80

Levels = NDArray[np.uint8]
"""[H, W, 3]."""


def levels(pixels: torch.Tensor) -> Levels:
    """[3, H, W] uint8, as a decoder gives a frame."""
    found: Levels = pixels.permute(1, 2, 0).numpy()
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
