"""Draws poses of shapes on a grey, lightly noisy ground: near the mean colour that inputs are normalised by, so that empty patches say
little but where they are (on a dark ground a tiny model is slow to learn places)."""

import numpy as np
from numpy.typing import NDArray

from data_tools.demo.poses import SIDE, Pose
from data_tools.demo.scene import Color, Shape, Size

Pixels = NDArray[np.uint8]
"""[SIDE, SIDE, 3], RGB."""
_Plane = NDArray[np.float64]

_RGB = {
    Color.RED: (235, 45, 40),
    Color.GREEN: (40, 190, 60),
    Color.BLUE: (50, 95, 245),
    Color.YELLOW: (245, 220, 40),
    Color.PURPLE: (190, 60, 220),
    Color.WHITE: (240, 240, 240),
}
_RADIUS = {Size.SMALL: 9.0, Size.LARGE: 14.0}
"""Pixels, of a circle; the other shapes have about its area."""
_GROUND = np.array([122.8, 116.7, 104.1])
"""CLIP's mean colour."""
_NOISE = 5.0
"""Deviation of the noise in grey levels (of 255)."""

_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5


def draw(poses: list[Pose], rng: np.random.Generator) -> list[Pixels]:
    """One picture for each pose, all on the same ground. The generator draws the ground and the noise."""
    ground = _GROUND + rng.uniform(-10, 10) + rng.normal(0, _NOISE, (SIDE, SIDE, 3))
    return [_paint(pose, ground) for pose in poses]


def _paint(pose: Pose, ground: NDArray[np.float64]) -> Pixels:
    opacity = pose.opacity * np.clip(0.5 - _distance(pose), 0, 1)[..., None]
    painted = ground + opacity * (np.array(_RGB[pose.look.color]) - _GROUND)
    return painted.clip(0, 255).round().astype(np.uint8)


def _distance(pose: Pose) -> _Plane:
    """Signed distance in pixels to the shape's edge, negative inside. No shape looks the same after a turn: three have a notch, the cross
    a short arm.
    """
    radius = _RADIUS[pose.look.size] * pose.scale
    across, down = _COLUMNS - pose.x, _ROWS - pose.y
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    x, y = across * cos + down * sin, down * cos - across * sin
    match pose.look.shape:
        case Shape.CIRCLE:
            return _notched(np.hypot(x, y) - radius, x, y + 0.9 * radius, radius)
        case Shape.SQUARE:
            return _notched(np.maximum(abs(x), abs(y)) - 0.89 * radius, x, y + 0.9 * radius, radius)
        case Shape.TRIANGLE:
            triangle = np.maximum(y, abs(x) * np.sqrt(0.75) - y / 2) - 0.77 * radius
            return _notched(triangle, x, y - 0.77 * radius, radius)
        case Shape.CROSS:
            long, short, thin = 1.25 * radius, 0.7 * radius, 0.36 * radius
            upright = np.maximum(abs(x) - thin, np.maximum(y - long, -y - short))
            flat = np.maximum(abs(x) - long, abs(y) - thin)
            return np.minimum(upright, flat)


def _notched(body: _Plane, x: _Plane, y: _Plane, radius: float) -> _Plane:
    """The body without a disc around the origin of x and y."""
    return np.maximum(body, 0.38 * radius - np.hypot(x, y))
