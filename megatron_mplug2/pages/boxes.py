"""Boxes over a picture inside a page: what is right drawn through, what a model said dashed, so that neither hides the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.data.coordinates import Box


class BoxKind(StrEnum):
    """A class of the shared style."""

    RIGHT = "right-box"
    SAID = "said-box"


@dataclass(frozen=True, kw_only=True)
class DrawnBox:
    kind: BoxKind
    box: Box
    """In pixels of the square."""


def boxed(picture: str, boxes: Sequence[DrawnBox], side: int) -> str:
    """Markup of a square picture, an `<img>`, under boxes in pixels of a square of `side`, whatever size the page gives it."""
    # Each line has a rim, to be seen on any picture; all rims are below all lines.
    rims = "".join(_rectangle(one.box, "rim") for one in boxes)
    lines = "".join(_rectangle(one.box, one.kind) for one in boxes)
    drawing = f"<svg viewBox='0 0 {side} {side}' preserveAspectRatio='none' aria-hidden='true'>{rims}{lines}</svg>"
    return f"<div class='boxed'>{picture}{drawing}</div>"


def mark(kind: BoxKind) -> str:
    """A piece of the box's line, to stand before its name."""
    return (
        f"<svg class='mark' viewBox='0 0 24 8' aria-hidden='true'><path class='rim' d='M0 4H24'/><path class='{kind}' d='M0 4H24'/></svg>"
    )


def _rectangle(box: Box, kind: str) -> str:
    left, upper, width, height = box
    return f"<rect class='{kind}' x='{left:g}' y='{upper:g}' width='{width:g}' height='{height:g}'/>"
