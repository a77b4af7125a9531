"""RandAugment (Cubuk et al., arXiv:1909.13719) on uint8 frames, with ALBEF's operations and ranges, which the released code took over.

All of it is whole-number arithmetic, so every device gives the same pixels. An operation and its strength are drawn once for a clip; what
depends on the colours (autocontrast, equalize) is taken from all its frames together: one frame's own would make the clip flicker.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

GREATEST_MAGNITUDE = 10  # ALBEF, dataset/randaugment.py MAX_LEVEL
_FILL = 128  # ibid., replace_value: what a shift, shear or turn uncovers
_STEPS = 32
"""Parts of a pixel to which bilinear sampling rounds, as OpenCV does."""
_ONE = 1 << 16  # a factor of 1 as a whole number


class OperationName(StrEnum):
    """The released list for pictures [CODE]. That for clips also flips, which `data.flip` decides (captions name directions), and has
    contrast in the place of autocontrast and equalize."""

    IDENTITY = "identity"
    AUTOCONTRAST = "autocontrast"
    EQUALIZE = "equalize"
    BRIGHTNESS = "brightness"
    SHARPNESS = "sharpness"
    SHEAR_X = "shear_x"
    SHEAR_Y = "shear_y"
    TRANSLATE_X = "translate_x"
    TRANSLATE_Y = "translate_y"
    ROTATE = "rotate"


@dataclass(frozen=True, kw_only=True)
class Operation:
    name: OperationName
    magnitude: int
    """From 0 to GREATEST_MAGNITUDE."""
    reverse: bool
    """Shear, shift or turn the other way."""


def drawn_operations(uniforms: Sequence[float], magnitude: int) -> tuple[Operation, ...]:
    """From two numbers in [0, 1) for each operation: which, and which way. One may come twice; each is always applied, as released for
    clips."""
    names = list(OperationName)
    pairs = zip(uniforms[::2], uniforms[1::2], strict=True)
    return tuple(Operation(name=names[int(which * len(names))], magnitude=magnitude, reverse=way < 0.5) for which, way in pairs)


def augmented(frames: torch.Tensor, operations: Sequence[Operation]) -> torch.Tensor:
    """Frames [T, 3, H, W] uint8 after the operations, in order, on the same device."""
    for operation in operations:
        frames = _applied(frames, operation)
    return frames


def _applied(frames: torch.Tensor, operation: Operation) -> torch.Tensor:
    share = operation.magnitude / GREATEST_MAGNITUDE
    match operation.name:
        case OperationName.IDENTITY:
            return frames
        case OperationName.AUTOCONTRAST:
            return _mapped(frames, [_stretched(counts) for counts in _histograms(frames)])
        case OperationName.EQUALIZE:
            return _mapped(frames, [_equalized(counts) for counts in _histograms(frames)])
        case OperationName.BRIGHTNESS:
            return _mapped(frames, [[value * _factor(share) // _ONE for value in range(256)]] * 3)
        case OperationName.SHARPNESS:
            return _sharpened(frames, _factor(share))
        case _:
            return _warped(frames, *_matrix(operation, *frames.shape[-2:]))


def _factor(share: float) -> int:
    """Of brightness and sharpness: 0.1 to 1.9, so that a magnitude of 5 changes nothing, as released."""
    return round((1.8 * share + 0.1) * _ONE)


def _histograms(frames: torch.Tensor) -> list[list[int]]:
    """How often each value occurs, a channel."""
    return [torch.bincount(frames[:, channel].reshape(-1).int(), minlength=256).tolist() for channel in range(3)]


def _stretched(counts: list[int]) -> list[int]:
    """A table of values that makes the darkest 0 and the brightest 255, as PIL's autocontrast."""
    present = [value for value, count in enumerate(counts) if count]
    low, high = present[0], present[-1]
    return list(range(256)) if high == low else [(value - low) * 255 // (high - low) for value in range(256)]


def _equalized(counts: list[int]) -> list[int]:
    """A table of values after which each is about as frequent as any other, as PIL's equalize."""
    present = [count for count in counts if count]
    step = (sum(present) - present[-1]) // 255
    if len(present) < 2 or not step:
        return list(range(256))
    table, below = [], step // 2
    for count in counts:
        table.append(below // step)
        below += count
    return table


def _mapped(frames: torch.Tensor, tables: list[list[int]]) -> torch.Tensor:
    """Each channel's values replaced by its table's, cut to 0..255."""
    table = torch.tensor(tables, device=frames.device).clamp_(0, 255).to(torch.uint8)
    return torch.stack([table[channel][frames[:, channel].int()] for channel in range(3)], dim=1)


def _sharpened(frames: torch.Tensor, factor: int) -> torch.Tensor:
    """Away from, or towards, PIL's SMOOTH filter (the middle weighs 5, its neighbours 1); the outermost pixels stay."""
    whole = frames.int()
    if min(whole.shape[-2:]) < 3:
        return frames
    middle = whole[..., 1:-1, 1:-1]
    around = sum(whole[..., row : row + middle.shape[-2], column : column + middle.shape[-1]] for row in range(3) for column in range(3))
    smooth = torch.div(around + 4 * middle + 6, 13, rounding_mode="floor")
    whole[..., 1:-1, 1:-1] = torch.div(smooth * _ONE + factor * (middle - smooth), _ONE, rounding_mode="floor")
    return whole.clamp_(0, 255).to(torch.uint8)


def _matrix(operation: Operation, height: int, width: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Rows of the map from a place (x, y, 1) in the result to the place that it shows. Ranges are ALBEF's: shear by 0.3, turn by 30
    degrees, shift by 10 pixels of 224, here by that share of the side."""
    share = operation.magnitude / GREATEST_MAGNITUDE * (-1 if operation.reverse else 1)
    match operation.name:
        case OperationName.SHEAR_X:
            return (1, 0.3 * share, 0), (0, 1, 0)
        case OperationName.SHEAR_Y:
            return (1, 0, 0), (0.3 * share, 1, 0)
        case OperationName.TRANSLATE_X:
            return (1, 0, 10 / 224 * share * width), (0, 1, 0)
        case OperationName.TRANSLATE_Y:
            return (1, 0, 0), (0, 1, 10 / 224 * share * height)
        case _:
            sine, cosine = math.sin(math.radians(30 * share)), math.cos(math.radians(30 * share))
            x, y = (width - 1) / 2, (height - 1) / 2
            return (cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y)


def _warped(frames: torch.Tensor, across: tuple[float, float, float], down: tuple[float, float, float]) -> torch.Tensor:
    """Bilinear; what lies outside is _FILL."""
    height, width = frames.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    x, y = (((a * columns + b * rows + c) * _STEPS).round().long().to(frames.device) for a, b, c in (across, down))
    padded = torch.nn.functional.pad(frames, (1, 1, 1, 1), value=_FILL).flatten(-2).int()
    result = torch.full_like(frames, _STEPS * _STEPS // 2, dtype=torch.int32)
    for right in (0, 1):
        for below in (0, 1):
            column = (x.div(_STEPS, rounding_mode="floor") + right + 1).clamp_(0, width + 1)
            row = (y.div(_STEPS, rounding_mode="floor") + below + 1).clamp_(0, height + 1)
            weight = (x % _STEPS if right else _STEPS - x % _STEPS) * (y % _STEPS if below else _STEPS - y % _STEPS)
            result += padded[..., row * (width + 2) + column] * weight.int()
    return (result >> 10).to(torch.uint8)  # 10 bits of weights: _STEPS squared
