"""What the demo corpus is about: one shape, its look, and where it is or what happens to it. See `poses` for how that is shown."""

import itertools
from dataclasses import dataclass
from enum import StrEnum


class Color(StrEnum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"
    YELLOW = "yellow"
    PURPLE = "purple"
    WHITE = "white"


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    CROSS = "cross"


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Motion(StrEnum):
    """The words with which captions tell it."""

    LEFT = "moves left"
    RIGHT = "moves right"
    UP = "moves up"
    DOWN = "moves down"
    CLOCKWISE = "turns clockwise"
    ANTICLOCKWISE = "turns anticlockwise"
    GROWS = "grows"
    SHRINKS = "shrinks"
    APPEARS = "appears"
    VANISHES = "vanishes"

    @property
    def reverse(self) -> "Motion":
        return _REVERSE[self]


_PAIRS = (
    (Motion.LEFT, Motion.RIGHT),
    (Motion.UP, Motion.DOWN),
    (Motion.CLOCKWISE, Motion.ANTICLOCKWISE),
    (Motion.GROWS, Motion.SHRINKS),
    (Motion.APPEARS, Motion.VANISHES),
)
_REVERSE = dict(_PAIRS) | {second: first for first, second in _PAIRS}


class Place(StrEnum):
    """The nine places of a picture, row by row; the words that answer "where"."""

    TOP_LEFT = "top left"
    TOP = "top"
    TOP_RIGHT = "top right"
    LEFT = "left"
    MIDDLE = "middle"
    RIGHT = "right"
    BOTTOM_LEFT = "bottom left"
    BOTTOM = "bottom"
    BOTTOM_RIGHT = "bottom right"


@dataclass(frozen=True, kw_only=True)
class Look:
    """The meaning's part that a still picture shows."""

    color: Color
    shape: Shape
    size: Size


@dataclass(frozen=True, kw_only=True)
class PictureScene:
    look: Look
    place: Place

    @property
    def meaning(self) -> str:
        return f"{self.look.color}/{self.look.shape}/{self.look.size}/{self.place}"


@dataclass(frozen=True, kw_only=True)
class MotionScene:
    look: Look
    motion: Motion

    @property
    def meaning(self) -> str:
        return f"{self.look.color}/{self.look.shape}/{self.look.size}/{self.motion}"


@dataclass(frozen=True, kw_only=True)
class OrderScene:
    """A shape that has one color (its look's) and then another."""

    look: Look
    second: Color

    @property
    def meaning(self) -> str:
        return f"{self.look.color} then {self.second}/{self.look.shape}/{self.look.size}"


Scene = PictureScene | MotionScene | OrderScene

LOOKS = tuple(Look(color=color, shape=shape, size=size) for color, shape, size in itertools.product(Color, Shape, Size))
PICTURES = tuple(PictureScene(look=look, place=place) for look, place in itertools.product(LOOKS, Place))
MOTIONS = tuple(MotionScene(look=look, motion=motion) for look, motion in itertools.product(LOOKS, Motion))
ORDERS = tuple(OrderScene(look=look, second=color) for look, color in itertools.product(LOOKS, Color) if color is not look.color)
