"""Draws poses of shapes on a grey, lightly noisy ground.

The ground has about the mean color that inputs are normalised by, so that an empty patch says little but where it is; and every color is
brighter than the ground in every channel, so that a shape has the same outline in every channel. Without the one a tiny model is slow to
learn places, without the other it is slow to learn shapes.
"""

import numpy as np
from numpy.typing import NDArray

from data_tools.demo.poses import SIDE, Pose
from data_tools.demo.scene import Color, Shape, Size

Pixels = NDArray[np.uint8]
"""[SIDE, SIDE, 3], RGB."""
_Plane = NDArray[np.float64]

_RGB = {
    Color.RED: (255, 130, 130),
    Color.GREEN: (130, 240, 135),
    Color.BLUE: (132, 165, 255),
    Color.YELLOW: (255, 245, 130),
    Color.PURPLE: (225, 135, 255),
    Color.WHITE: (255, 255, 255),
}
_RADIUS = {Size.SMALL: 9.5, Size.LARGE: 13.5}
"""Pixels, of a circle; the other shapes have about its area."""
_GROUND = 110.0
"""Near CLIP's mean color, (123, 117, 104)."""
_NOISE = 5.0
"""Deviation of the noise in grey levels (of 255)."""

_HAND = (15, 15, 15)

_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5


def draw(poses: list[Pose], rng: np.random.Generator) -> list[Pixels]:
    """One picture for each pose, all on the same ground. The generator draws the ground and the noise."""
    ground = _GROUND + rng.uniform(-10, 10) + rng.normal(0, _NOISE, (SIDE, SIDE, 3))
    return [_paint(pose, ground) for pose in poses]


def draw_together(poses: list[Pose], rng: np.random.Generator) -> Pixels:
    """One picture of shapes that do not touch."""
    empty = _GROUND + rng.uniform(-10, 10) + rng.normal(0, _NOISE, (SIDE, SIDE, 3))
    return np.asarray(sum((_painted(pose) for pose in poses), start=empty)).clip(0, 255).round().astype(np.uint8)


def box_of(pose: Pose) -> tuple[int, int, int, int]:
    """Left, upper edge, width, height of what is painted of a shape, in pixels."""
    rows, columns = np.nonzero(_inside(_shape(pose))[..., 0] > 0.5)
    left, upper = int(columns.min()), int(rows.min())
    return left, upper, int(columns.max()) + 1 - left, int(rows.max()) + 1 - upper


def _paint(pose: Pose, ground: NDArray[np.float64]) -> Pixels:
    return (ground + _painted(pose)).clip(0, 255).round().astype(np.uint8)


def _painted(pose: Pose) -> NDArray[np.float64]:
    """What a shape adds to its ground."""
    color = np.where(_inside(_hand(pose)) > 0, _HAND, np.array(_RGB[pose.look.color])) if pose.hand else np.array(_RGB[pose.look.color])
    return np.asarray(pose.opacity * _inside(_shape(pose)) * (color - _GROUND))


def _inside(distance: _Plane) -> _Plane:
    """[SIDE, SIDE, 1] share of each pixel that is inside, from the signed distance to the edge."""
    return np.asarray(np.clip(0.5 - distance, 0, 1)[..., None])


def _shape(pose: Pose) -> _Plane:
    """Signed distance in pixels to the shape's edge, negative inside."""
    radius = _RADIUS[pose.look.size] * pose.scale
    x, y = _turned(pose)
    match pose.look.shape:
        case Shape.CIRCLE:
            return np.asarray(np.hypot(x, y) - radius)
        case Shape.SQUARE:
            return np.asarray(np.maximum(abs(x), abs(y)) - 0.95 * radius)
        case Shape.TRIANGLE:
            return np.asarray(np.maximum(y, abs(x) * np.sqrt(0.75) - y / 2) - 0.7 * radius)
        case Shape.CROSS:
            long, thin = 1.15 * radius, 0.33 * radius
            return np.minimum(np.maximum(abs(x) - thin, abs(y) - long), np.maximum(abs(x) - long, abs(y) - thin))


def _hand(pose: Pose) -> _Plane:
    """Like a clock's, from the centre to the edge: it shows how the shape is turned, which a circle would not."""
    radius = _RADIUS[pose.look.size] * pose.scale
    x, y = _turned(pose)
    return np.maximum(abs(x) - 0.3 * radius, np.maximum(y - 0.3 * radius, -y - 1.2 * radius))


def _turned(pose: Pose) -> tuple[_Plane, _Plane]:
    """Across and down from the centre, in the shape's own frame."""
    across, down = _COLUMNS - pose.x, _ROWS - pose.y
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    return across * cos + down * sin, down * cos - across * sin
