"""What the demo corpus is about: one shape, its look, and what happens to it in a clip.

Every motion's reverse is a motion too, and what happens is symmetric in time: the two middle steps of a motion and of its reverse
look alike, and both show the same four pictures in opposite order. So neither a middle frame nor the frames without their order tell which.
"""

import itertools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

SIDE = 64
"""Pixels of a picture's or a frame's side."""
STEPS = 4
"""Different pictures in a clip."""
FRAMES_PER_STEP = 2
FPS = 8
GRID = SIDE // 8
"""Pixels between neighbouring places of a shape's centre."""

_PROGRESS = (-1, 0, 0, 1)
"""How far a motion has come at each step."""
_REACH = 2
"""Grid steps from the middle of a path to its ends."""
_MIDDLES = (3, 4, 5)
"""Grid places of the middle of a path, on either axis: nothing leaves the picture, and the middle does not tell the direction."""


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


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One shape as it is drawn."""

    look: Look
    x: float
    """Centre, in pixels from the left edge."""
    y: float
    """In pixels from the upper edge."""
    angle: float
    """Radians, clockwise as seen."""
    scale: float = 1.0
    """Of the radius that the size gives."""
    opacity: float = 1.0


def poses(scene: Scene, rng: np.random.Generator) -> list[Pose]:
    """The scene's different pictures in order: one of a picture, STEPS of a clip. The generator draws the place and the first angle."""
    eighth = np.pi / 4
    angle = float(rng.integers(8)) * eighth
    column, row = (float(place) * GRID for place in rng.choice(_MIDDLES, 2))
    look = scene.look
    match scene:
        case PictureScene(place=place):
            row_number, column_number = divmod(list(Place).index(place), 3)
            return [Pose(look=look, x=(2 + 2 * column_number) * GRID, y=(2 + 2 * row_number) * GRID, angle=angle)]
        case OrderScene(second=second):
            then = Look(color=second, shape=look.shape, size=look.size)
            return [Pose(look=shown, x=column, y=row, angle=angle) for shown in (look, look, then, then)]
        case MotionScene(motion=Motion.LEFT | Motion.RIGHT | Motion.UP | Motion.DOWN as motion):
            far = _REACH * GRID
            dx = {Motion.LEFT: -far, Motion.RIGHT: far}.get(motion, 0)
            dy = {Motion.UP: -far, Motion.DOWN: far}.get(motion, 0)
            return [Pose(look=look, x=column + dx * at, y=row + dy * at, angle=angle) for at in _PROGRESS]
        case MotionScene(motion=Motion.CLOCKWISE | Motion.ANTICLOCKWISE as motion):
            turn = eighth if motion is Motion.CLOCKWISE else -eighth
            return [Pose(look=look, x=column, y=row, angle=angle + turn * step) for step in range(STEPS)]
        case MotionScene(motion=Motion.GROWS | Motion.SHRINKS as motion):
            gain = 0.5 if motion is Motion.GROWS else -0.5
            return [Pose(look=look, x=column, y=row, angle=angle, scale=1 + gain * at) for at in _PROGRESS]
        case MotionScene(motion=motion):
            gain = 0.5 if motion is Motion.APPEARS else -0.5
            return [Pose(look=look, x=column, y=row, angle=angle, opacity=0.5 + gain * at) for at in _PROGRESS]
