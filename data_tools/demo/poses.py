"""How a scene is shown: where the shape is, how it is turned, how large and how bright, at each step.

Every motion's reverse is a motion too, and all is symmetric in time: the two middle steps of a motion and of its reverse look alike, and
both show the same pictures in opposite order. So neither a middle frame nor the frames without their order tell which of the two it is.
Centres lie on a coarse grid: a tiny model learns motion between few places much faster than between many.
"""

from dataclasses import dataclass, replace

import numpy as np

from data_tools.demo.scene import Look, Motion, MotionScene, OrderScene, PictureScene, Place, Scene

SIDE = 64
"""Pixels of a picture's or a frame's side."""
GRID = SIDE // 8
"""Pixels between neighbouring places of a shape's centre; grid place 4 is the middle."""
STEPS = 4
"""Different pictures in a clip."""

_PROGRESS = (-1, 0, 0, 1)
"""How far a motion has come at each step."""
_REACH = 2 * GRID
"""Pixels from the middle of a path to its ends."""
_MIDDLES = (3, 4, 5)
"""Grid places of the middle of a path, on either axis: no more than a third of a shape leaves the picture, and the
middle does not tell the direction."""
_THIRDS = (2, 4, 6)
"""Grid places of left (or top), middle, and right (or bottom) in a picture."""
_QUARTER = np.pi / 2


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One shape as it is drawn."""

    look: Look
    x: float
    """Centre, in pixels from the left edge."""
    y: float
    """In pixels from the upper edge."""
    hand: bool = False
    """Whether it has a dark hand, as a clock has: only what turns has one."""
    angle: float = 0.0
    """Radians, clockwise as seen."""
    scale: float = 1.0
    """Times the radius that the size gives."""
    opacity: float = 1.0


def poses(scene: Scene, rng: np.random.Generator) -> list[Pose]:
    """The scene's different pictures in order: one of a picture, STEPS of a clip. The generator draws the place."""
    match scene:
        case PictureScene(look=look, place=place):
            row, column = divmod(list(Place).index(place), 3)
            return [Pose(look=look, x=GRID * _THIRDS[column], y=GRID * _THIRDS[row])]
        case OrderScene(look=look, second=second):
            first = _in_the_middle(look, rng)
            then = replace(first, look=replace(look, color=second))
            return [first, first, then, then]
        case MotionScene(look=look, motion=motion):
            return _moving(_in_the_middle(look, rng), motion)


def _in_the_middle(look: Look, rng: np.random.Generator) -> Pose:
    column, row = rng.choice(_MIDDLES, 2)
    return Pose(look=look, x=GRID * float(column), y=GRID * float(row))


def _moving(pose: Pose, motion: Motion) -> list[Pose]:
    match motion:
        case Motion.LEFT:
            return [replace(pose, x=pose.x - _REACH * at) for at in _PROGRESS]
        case Motion.RIGHT:
            return [replace(pose, x=pose.x + _REACH * at) for at in _PROGRESS]
        case Motion.UP:
            return [replace(pose, y=pose.y - _REACH * at) for at in _PROGRESS]
        case Motion.DOWN:
            return [replace(pose, y=pose.y + _REACH * at) for at in _PROGRESS]
        case Motion.CLOCKWISE | Motion.ANTICLOCKWISE:
            turn = _QUARTER if motion is Motion.CLOCKWISE else -_QUARTER
            return [replace(pose, hand=True, angle=turn * at) for at in _PROGRESS]
        case Motion.GROWS:
            return [replace(pose, scale=1 + 0.5 * at) for at in _PROGRESS]
        case Motion.SHRINKS:
            return [replace(pose, scale=1 - 0.5 * at) for at in _PROGRESS]
        case Motion.APPEARS:
            return [replace(pose, opacity=(1 + at) / 2) for at in _PROGRESS]
        case Motion.VANISHES:
            return [replace(pose, opacity=(1 - at) / 2) for at in _PROGRESS]
