"""Boxes as texts, and where they lie after crop, resize and flip: held against the decoded pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from megatron_mplug2.data.coordinates import Box, box_text, fault_of, in_square, longest_text, mirrored, read_box, uncropped, whole_in_view
from megatron_mplug2.data.decoding.contract import FULL_VIEW, PictureRequest, Transform, View
from megatron_mplug2.data.decoding.pyav import decode_picture
from megatron_mplug2.data.media_facts import MediaFacts

PICTURE = MediaFacts(codec="png", width=120, height=80)
BOX: Box = (50, 20, 30, 24)
CROP = View(area=0.49, x=0.5, y=0.25, flip=False)


def painted() -> bytes:
    """Black, but for a white box."""
    pixels = np.zeros((PICTURE.height, PICTURE.width, 3), np.uint8)
    left, upper, width, height = map(int, BOX)
    pixels[upper : upper + height, left : left + width] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("view", [FULL_VIEW, CROP, View(area=1.0, x=0, y=0, flip=True), View(area=0.49, x=0.4, y=0.3, flip=True)])
def test_the_box_is_where_the_model_sees_it(view: View) -> None:
    seen = decode_picture(PictureRequest(data=painted(), transform=Transform(resolution=64, view=view)))[0, 0]
    rows, columns = (seen > 127).nonzero(as_tuple=True)
    found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert whole_in_view(BOX, PICTURE, view)
    told = torch.tensor([int(number) for number in box_text(in_square(BOX, PICTURE, view, 64), 64).split()])
    assert (told - found).abs().max() <= 1


def test_a_crop_that_cuts_something_off_is_told() -> None:
    assert not whole_in_view((0, 0, 30, 30), PICTURE, CROP)
    assert uncropped(View(area=0.5, x=0.1, y=0.1, flip=True)) == View(area=1.0, x=0.0, y=0.0, flip=True)


def test_texts_are_read_back_and_nothing_else_is() -> None:
    for text in ("0 0 1 1", "3 40 200 311", "0 0 336 336"):
        box = read_box(text, 336)
        assert box is not None and box_text(box, 336) == text
    others = ["", "1 2 3", "1 2 3 4 5", "3 40 200 337", "200 40 3 311", "3 3 3 9", "3 40 200 a", "3 40  200 311", "3,40,200,311"]
    assert [read_box(text, 336) for text in others] == [None] * len(others)
    assert longest_text(336) == 12


def test_a_box_is_at_least_a_pixel_and_stays_in_the_square() -> None:
    assert box_text((10.2, 10.2, 0.1, 0.1), 32) == "10 10 11 11"
    assert box_text((31.9, -0.4, 5, 5), 32) == "31 0 32 5"


@pytest.mark.parametrize("box", [(100, 0, 30, 10), (-5, 0, 10, 10), (0, 70, 10, 20), (5, 5, 0, 10), (5, 5, 10, -1)])
def test_a_box_that_is_not_in_its_picture(box: Box) -> None:
    assert str(fault_of(box, PICTURE)).endswith("does not lie in the picture of 120x80 pixels")
    assert fault_of((0, 0, 120.5, 80), PICTURE) is None  # corpora round


def test_sides_change_places_in_a_mirror() -> None:
    assert mirrored("Left man right of the leftmost rightly left") == "right man left of the leftmost rightly right"
