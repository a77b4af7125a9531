"""Boxes as texts, and where a box lies in what the model sees.

A coordinate is a whole pixel of the square that the model sees, as in the predecessor, which rounds to as many places as its 336 pixels
[M1]. It is written as a number in words of the vocabulary ("12 40 200 311": left, upper, right and lower edge, the order of OFA,
arXiv 2202.03052), not as a token of its own: a released vocabulary cannot grow without new rows of the embedding, and BERT's has numbers
up to 999 whose rows are trained.
"""

import re
from dataclasses import replace

from megatron_mplug2.data.decoding.contract import FULL_VIEW, View
from megatron_mplug2.data.media_facts import MediaFacts

Box = tuple[float, float, float, float]
"""Left, upper edge, width, height."""

OVERHANG = 1.0
"""Pixels by which a box may lie beyond its picture: corpora round."""

_BOX = re.compile(r"([0-9]{1,4}) ([0-9]{1,4}) ([0-9]{1,4}) ([0-9]{1,4})")
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def box_text(box: Box, resolution: int) -> str:
    """Of a box in pixels of the square. At least one pixel wide and high, within 0..resolution."""
    left, right = _edges(box[0], box[2], resolution)
    upper, lower = _edges(box[1], box[3], resolution)
    return f"{left} {upper} {right} {lower}"


def read_box(text: str, resolution: int) -> Box | None:
    """What `box_text` wrote; None for any other text."""
    found = _BOX.fullmatch(text)
    if found is None:
        return None
    left, upper, right, lower = map(int, found.groups())
    if not (left < right <= resolution and upper < lower <= resolution):
        return None
    return float(left), float(upper), float(right - left), float(lower - upper)


def _edges(start: float, size: float, resolution: int) -> tuple[int, int]:
    first = min(max(round(start), 0), resolution - 1)
    return first, max(min(round(start + size), resolution), first + 1)


def longest_text(resolution: int) -> int:
    """Most tokens of a box: a digit may be a token."""
    return 4 * len(str(resolution))


def fault_of(box: Box, picture: MediaFacts) -> str | None:
    """Why a box cannot be one of its picture's; None where it can."""
    left, upper, width, height = box
    beyond = left + width > picture.width + OVERHANG or upper + height > picture.height + OVERHANG
    if width > 0 and height > 0 and left >= -OVERHANG and upper >= -OVERHANG and not beyond:
        return None
    shown = ", ".join(f"{side:g}" for side in box)
    return f"the box [{shown}] (left, upper edge, width, height) does not lie in the picture of {picture.width}x{picture.height} pixels"


def whole_in_view(box: Box, picture: MediaFacts, view: View) -> bool:
    """Whether the crop cuts nothing off the box."""
    left, upper, right, lower = view.box(picture.width, picture.height)
    return left <= box[0] and upper <= box[1] and box[0] + box[2] <= right and box[1] + box[3] <= lower


def uncropped(view: View) -> View:
    """The same without its crop."""
    return replace(FULL_VIEW, flip=view.flip)


def in_square(box: Box, picture: MediaFacts, view: View, resolution: int) -> Box:
    """From pixels of the upright picture to pixels of the square that the model sees: after crop, resize and flip."""
    left, upper, right, lower = view.box(picture.width, picture.height)
    across, down = resolution / (right - left), resolution / (lower - upper)
    width, height = box[2] * across, box[3] * down
    start = (box[0] - left) * across
    return (resolution - start - width if view.flip else start), (box[1] - upper) * down, width, height


def in_picture(box: Box, picture: MediaFacts, resolution: int) -> Box:
    """The way back, of a whole picture that is not flipped."""
    across, down = picture.width / resolution, picture.height / resolution
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def edges_text(box: Box) -> str:
    """Left, upper, right and lower edge in whole pixels."""
    return f"{box[0]:.0f} {box[1]:.0f} {box[0] + box[2]:.0f} {box[1] + box[3]:.0f}"


def mirrored(phrase: str) -> str:
    """What a phrase is of the flipped picture: left and right change places (as in TransVG, arXiv 2104.08541)."""
    return _SIDES.sub(lambda side: "right" if side[0].lower() == "left" else "left", phrase)
