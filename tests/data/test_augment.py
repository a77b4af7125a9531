"""RandAugment's operations against PIL's, and their draws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.decoding.augment import Operation, OperationName, augmented, drawn_operations
from megatron_mplug2.data.decoding.contract import PictureRequest
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.samples import Augmentation, Picture
from tests.data.corpus import pair, picture
from tests.data.media import Pixels
from tests.data.test_samples import Reading

SIDE = 224


def smooth_noise(seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).integers(30, 200, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def after(frames: list[Pixels], name: OperationName, magnitude: int = 8, *, reverse: bool = False) -> Pixels:
    """[T, H, W, 3]"""
    batch = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    changed = augmented(batch, [Operation(name=name, magnitude=magnitude, reverse=reverse)])
    assert changed.dtype == torch.uint8 and changed.shape == batch.shape
    return np.asarray(changed.permute(0, 2, 3, 1).numpy())


def difference(found: Pixels, expected: Image.Image, edge: int = 0) -> int:
    inside = slice(edge, SIDE - edge)
    return int(np.abs(found.astype(int) - np.asarray(expected).astype(int))[inside, inside].max())


def test_colors_as_pil() -> None:
    pixels = smooth_noise()
    image = Image.fromarray(pixels)
    assert difference(after([pixels], OperationName.IDENTITY)[0], image) == 0
    assert difference(after([pixels], OperationName.EQUALIZE)[0], ImageOps.equalize(image)) == 0
    assert difference(after([pixels], OperationName.AUTOCONTRAST)[0], ImageOps.autocontrast(image)) <= 1
    for magnitude in (0, 2, 5, 10):
        factor = 1.8 * magnitude / 10 + 0.1
        assert difference(after([pixels], OperationName.BRIGHTNESS, magnitude)[0], ImageEnhance.Brightness(image).enhance(factor)) <= 1
        assert difference(after([pixels], OperationName.SHARPNESS, magnitude)[0], ImageEnhance.Sharpness(image).enhance(factor), 1) <= 2
    for name in (OperationName.BRIGHTNESS, OperationName.SHARPNESS):  # as released
        assert np.array_equal(after([pixels], name, 5)[0], pixels)


@pytest.mark.parametrize("reverse", [False, True])
def test_places_as_pil(reverse: bool) -> None:
    pixels, sign = smooth_noise(), -1 if reverse else 1
    image = Image.fromarray(pixels)
    turned = image.rotate(24 * sign, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    assert difference(after([pixels], OperationName.ROTATE, 8, reverse=reverse)[0], turned, 40) <= 4
    for name, matrix in (
        (OperationName.SHEAR_X, (1, 0.24 * sign, -0.12 * sign, 0, 1, 0)),  # PIL counts from a pixel's corner
        (OperationName.SHEAR_Y, (1, 0, 0, 0.24 * sign, 1, -0.12 * sign)),
    ):
        sheared = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
        found = after([pixels], name, 8, reverse=reverse)[0]
        inside = np.asarray(sheared) != 128
        assert np.percentile(np.abs(found.astype(int) - np.asarray(sheared))[inside], 99) <= 4
    moved = after([pixels], OperationName.TRANSLATE_X, 10, reverse=reverse)[0]  # 10 pixels of 224
    assert np.array_equal(moved[:, 10:] if reverse else moved[:, :-10], pixels[:, :-10] if reverse else pixels[:, 10:])
    assert (moved[:, :10] if reverse else moved[:, -10:]).min() == 128 == (moved[:, :10] if reverse else moved[:, -10:]).max()
    down = after([pixels.transpose(1, 0, 2)], OperationName.TRANSLATE_Y, 10, reverse=reverse)[0]
    assert np.array_equal(down.transpose(1, 0, 2), moved)


def test_frames_of_a_clip_change_alike() -> None:
    """Two frames in which the same colour occurs keep it the same."""
    dark, light = smooth_noise(1) // 2, smooth_noise(2) // 2 + 100
    dark, light = (np.concatenate([frame[: SIDE // 2], np.full((SIDE // 2, SIDE, 3), 77, np.uint8)]) for frame in (dark, light))
    for name in OperationName:
        first, second = after([dark, light], name, 3)
        middle = (slice(3 * SIDE // 4, 3 * SIDE // 4 + 8), slice(SIDE // 2, SIDE // 2 + 8))
        assert np.array_equal(first[middle], second[middle]), name


def test_flat_and_tiny_frames_pass() -> None:
    for shape in ((1, 1, 3), (2, 5, 3), (16, 16, 3)):
        for name in OperationName:
            (found,) = after([np.full(shape, 90, np.uint8)], name, 10)
            assert (found.shape, found.dtype) == (shape, np.uint8), name


def test_operations_are_drawn_by_the_sample(tmp_path: Path) -> None:
    settings = {"operations": 2, "magnitude": 5}
    training = Picture(frames=1, resolution=32, augmentation=Augmentation.DRAWN)
    reading = Reading(tmp_path / "a", MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))], data__randaugment=settings)

    def drawn(epoch: int, picture: Picture) -> tuple[Operation, ...]:
        request = reading.pair(epoch=epoch, picture=picture).media
        assert isinstance(request, PictureRequest)
        return request.transform.operations

    many = [drawn(epoch, training) for epoch in range(40)]
    assert [drawn(epoch, training) for epoch in range(40)] == many
    assert all(len(operations) == 2 for operations in many)
    assert {operation.name for operations in many for operation in operations} == set(OperationName)
    assert drawn(0, Picture(frames=1, resolution=32, augmentation=Augmentation.NONE)) == ()
    without = Reading(tmp_path / "b", MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))]).pair(picture=training).media
    assert isinstance(without, PictureRequest) and without.transform.operations == ()


def test_draws_are_uniform() -> None:
    numbers = np.random.default_rng(0).random((2000, 4))
    names = [operation.name for row in numbers for operation in drawn_operations(row.tolist(), 5)]
    assert all(abs(names.count(name) - 400) < 90 for name in OperationName)
