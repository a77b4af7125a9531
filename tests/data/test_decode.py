"""Decoding of real pictures and clips made here, checked against their pixels."""

import io
import zlib
from contextlib import suppress

import av
import numpy as np
import pytest
import torch
from PIL import Image

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW, View
from megatron_mplug2.data.decoding.pixels import DEVIATION, MEAN, normalised
from megatron_mplug2.data.frame_sampling import frame_indices
from megatron_mplug2.data.video_file import VideoFile
from tests.data.media import Pixels, encoded, facts_of, gradient, grey_clip
from tests.shared import SHARED, needs_shared

LEVELS = [10 * number + 5 for number in range(24)]


def pixels_of(media: torch.Tensor) -> Pixels:
    """[T, R, R, 3] from a decoded tensor."""
    result: Pixels = media.permute(1, 2, 3, 0).numpy()
    return result


def levels_of(media: torch.Tensor) -> list[int]:
    """Index into LEVELS of every frame of a grey clip."""
    return [int(np.abs(np.array(LEVELS) - frame.mean()).argmin()) for frame in pixels_of(media)]


@pytest.mark.parametrize(
    ("count", "frames", "shares", "expected"),
    [
        (8, 4, None, [0, 2, 4, 6]),  # segments of 2: (0 + 2 - 1) // 2
        (10, 4, None, [0, 3, 5, 8]),  # edges 0 2 5 7 10
        (417, 4, None, [51, 155, 259, 364]),  # edges 0 104 208 312 417
        (3, 5, None, [0, 1, 2, 2, 2]),
        (1, 3, None, [0, 0, 0]),
        (8, 4, [0.0, 0.5, 0.99, 0.7], [0, 2, 4, 6]),  # a segment of 2 without its last frame leaves one
        (40, 4, [0.0, 0.5, 0.99, 0.999], [0, 14, 28, 38]),  # of 10: 9 to choose from
        (4, 4, [0.9, 0.1, 0.5, 0.3], [0, 1, 2, 3]),  # nothing to choose: the whole clip
        (2, 4, [0.9, 0.1, 0.5, 0.3], [0, 1, 1, 1]),
        (5, 3, [0.99, 0.0, 0.0], [1, 2, 4]),  # first segment [0, 1) is empty: shuffle takes 4, then 1, then 2
    ],
)
def test_frame_indices(count: int, frames: int, shares: list[float] | None, expected: list[int]) -> None:
    assert frame_indices(count, frames, shares) == expected


def test_frame_indices_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="2 shares for 4 frames"):
        frame_indices(9, 4, [0.1, 0.2])
    with pytest.raises(ValueError, match="0"):
        frame_indices(0, 4, None)


def test_random_subset_is_uniform() -> None:
    draws = np.random.default_rng(0).random((3000, 3))
    counts = np.bincount([index for shares in draws for index in frame_indices(5, 3, shares.tolist())], minlength=5)
    assert abs(counts / 3000 - 0.6).max() < 0.04


def test_picture_is_square() -> None:
    media = decode_image(encoded(gradient(48, 96), "PNG"), 32, FULL_VIEW)
    assert media.shape == (3, 1, 32, 32)
    assert media.dtype == torch.uint8
    expected = np.asarray(Image.fromarray(gradient(48, 96)).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels_of(media)[0], expected)


def test_normalised() -> None:
    levels = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 1, 256)
    media = normalised(levels)
    assert media.dtype is torch.float32 and media.shape == levels.shape
    expected = (torch.arange(256) / 255 - torch.tensor(MEAN)[:, None]) / torch.tensor(DEVIATION)[:, None]
    torch.testing.assert_close(media[1, :, 0, 0], expected)
    assert normalised(media) is media


def test_bicubic_as_pil_of_what_is_cut_out() -> None:
    """On soft pictures; where PIL cuts off overshoots between its two passes, torch's filter is nearer to the exact one."""
    for width, height, side in ((640, 360, 224), (341, 256, 224), (90, 300, 56), (40, 30, 96)):
        picture = Image.fromarray(gradient(height, width))
        for view in (FULL_VIEW, View(area=0.4, x=0.7, y=0.2, flip=False)):
            shown = pixels_of(decode_image(encoded(np.asarray(picture), "PNG"), side, view))[0].astype(int)
            part = picture.crop(view.box(width, height)).resize((side, side), Image.Resampling.BICUBIC)
            assert abs(shown - np.asarray(part)).max() <= 1


def test_boxes_are_whole_and_never_empty() -> None:
    assert View(area=0.25, x=1.0, y=0.0, flip=False).box(64, 48) == (32, 0, 64, 24)
    assert View(area=0.01, x=0.99, y=0.5, flip=False).box(3, 1) == (2, 0, 3, 1)
    assert FULL_VIEW.box(7, 5) == (0, 0, 7, 5)


def test_view_crops_and_flips() -> None:
    data = encoded(gradient(64, 64), "PNG")
    whole = pixels_of(decode_image(data, 64, FULL_VIEW))[0].astype(int)
    quarter = pixels_of(decode_image(data, 32, View(area=0.25, x=1.0, y=0.0, flip=False)))[0].astype(int)
    assert abs(quarter - whole[:32, 32:]).max() <= 1
    flipped = pixels_of(decode_image(data, 64, View(area=1.0, x=0.3, y=0.9, flip=True)))[0]
    np.testing.assert_array_equal(flipped, whole[:, ::-1])


def test_same_view_for_all_frames() -> None:
    view = View(area=0.3, x=0.4, y=0.6, flip=True)
    media = decode_video(grey_clip([100] * 8), 4, 16, view, None)
    assert media.shape == (3, 4, 16, 16)
    assert abs(pixels_of(media).astype(int) - 100).max() <= 2


def test_every_mode_becomes_rgb() -> None:
    colored = Image.fromarray(gradient())
    grey = np.asarray(colored.convert("L"))
    for mode, form, tolerance in [
        ("L", "PNG", 1),
        ("P", "PNG", 60),
        ("CMYK", "TIFF", 1),
        ("1", "PNG", 255),
        ("RGBA", "PNG", 1),
        ("LA", "PNG", 1),
    ]:
        file = io.BytesIO()
        colored.convert(mode).save(file, form)
        found = pixels_of(decode_image(file.getvalue(), 32, FULL_VIEW))[0].astype(int)
        reference = Image.fromarray(grey) if mode in ("L", "LA") else colored
        expected = np.asarray(reference.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
        assert abs(found - expected).max() <= tolerance, mode
    deep = encoded((grey.astype(np.uint16) * 257), "PNG")
    assert abs(pixels_of(decode_image(deep, 48, FULL_VIEW))[0][..., 0].mean() - grey.mean()) < 1


def test_pictures_of_measurements_are_refused() -> None:
    rows = np.arange(48 * 64).reshape(48, 64)
    reals = (rows / 3072).astype(np.float32)
    for data in (encoded(reals, "TIFF"), encoded(reals, "PPM"), encoded((rows / 12).astype(np.int32), "TIFF")):
        with pytest.raises(BadMedia, match="nothing says which is white"):
            decode_image(data, 32, FULL_VIEW)
    for form in ("TIFF", "PNG", "PPM"):
        shown = pixels_of(decode_image(encoded((rows * 20).astype(np.uint16), form), 32, FULL_VIEW))[0]
        assert abs(shown.mean() - (rows * 20 / 256).mean()) < 1, form


def test_transparent_is_white() -> None:
    layer = np.zeros((16, 16, 4), np.uint8)
    layer[:8] = (200, 10, 10, 255)
    found = pixels_of(decode_image(encoded(layer, "PNG"), 16, FULL_VIEW))[0]
    assert found[2, 2].tolist() == [200, 10, 10]
    assert found[13, 2].tolist() == [255, 255, 255]


def test_exif_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = pixels_of(decode_image(encoded(gradient(64, 64), "JPEG", quality=95, exif=exif), 32, FULL_VIEW))[0]
    plain = pixels_of(decode_image(encoded(gradient(64, 64), "JPEG", quality=95), 32, FULL_VIEW))[0]
    np.testing.assert_array_equal(turned, plain[::-1, ::-1])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the module's own filter
def test_large_jpeg_is_read_smaller() -> None:
    """100 million pixels, over the limit when decoded whole."""
    data = encoded(np.full((10_000, 10_000), 90, np.uint8), "JPEG")
    media = decode_image(data, 32, FULL_VIEW)
    assert abs(pixels_of(media).astype(int) - 90).max() <= 1


def test_large_png_is_refused_unread() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    head = encoded(np.zeros((1, 1), np.uint8), "PNG")
    size = b"IHDR" + side.to_bytes(4, "big") * 2 + head[24:29]
    data = head[:12] + size + zlib.crc32(size).to_bytes(4, "big") + head[33:]
    with pytest.raises(BadMedia, match="too large"):
        decode_image(data, 32, FULL_VIEW)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_pictures(form: str) -> None:
    rng = np.random.default_rng(0)
    data = encoded(rng.integers(0, 255, (64, 64, 3), np.uint8), form)
    for bad in (b"", b"no picture at all", data[:20], data[: len(data) // 2]):
        with pytest.raises(BadMedia):
            decode_image(bad, 32, FULL_VIEW)
    for place in range(0, len(data), len(data) // 200):  # flipped bits: a picture or BadMedia, nothing else
        flipped = bytearray(data)
        flipped[place] ^= 0x55
        with suppress(BadMedia):
            assert decode_image(bytes(flipped), 32, FULL_VIEW).isfinite().all()


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
def test_clip_frames(form: str) -> None:
    data = grey_clip(LEVELS, form=form)
    facts = facts_of(data)
    assert (facts.frames, facts.width, facts.height, facts.fps) == (24, 64, 48, 8.0)
    assert levels_of(decode_video(data, 4, 16, FULL_VIEW, None)) == [2, 8, 14, 20]
    assert levels_of(decode_video(data, 4, 16, FULL_VIEW, [0.0, 0.99, 0.5, 0.99])) == [0, 10, 14, 22]
    assert levels_of(decode_video(data, 30, 16, FULL_VIEW, None)) == [*range(24), *[23] * 6]


def test_short_clip_repeats_its_last_frame() -> None:
    assert levels_of(decode_video(grey_clip(LEVELS[:2]), 4, 16, FULL_VIEW, None)) == [0, 1, 1, 1]


@pytest.mark.parametrize("data", [b"", b"no clip at all", b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n"])
def test_no_clip(data: bytes) -> None:
    with pytest.raises(BadMedia):
        decode_video(data, 4, 16, FULL_VIEW, None)


def test_picture_and_sound_are_no_clip() -> None:
    with pytest.raises(BadMedia):
        facts_of(encoded(gradient(), "JPEG"))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(BadMedia, match="no video stream"):
        facts_of(file.getvalue())


def test_cut_off_clip_is_bad_only_where_needed() -> None:
    data = grey_clip(LEVELS, options={"movflags": "+faststart"}, keyframe_every=6)  # the table of frames lies in front
    with VideoFile(data) as video:
        cut = data[: video._stream.index_entries[21].pos + 1]
    assert facts_of(cut).frames == 24
    assert levels_of(decode_video(cut, 4, 16, FULL_VIEW, [0.0, 0.0, 0.0, 0.0])) == [0, 6, 12, 18]
    with pytest.raises(BadMedia, match="frame 19 is"):
        decode_video(cut, 24, 16, FULL_VIEW, None)
    with VideoFile(data) as video:
        begin, size = video._stream.index_entries[0].pos, video._stream.index_entries[0].size
    for end in (100, begin, begin + size // 2, begin + size):
        with pytest.raises(BadMedia):
            decode_video(data[:end], 2, 16, FULL_VIEW, None)


def test_damage_is_bad_only_until_the_next_key_frame() -> None:
    data = bytearray(grey_clip(LEVELS, keyframe_every=6))
    with VideoFile(bytes(data)) as video:
        begin, size = video._stream.index_entries[7].pos, video._stream.index_entries[7].size  # of a frame of the second group
    data[begin : begin + size] = bytes(size)
    bad = bytes(data)
    assert levels_of(decode_video(bad, 2, 16, FULL_VIEW, [0.0, 0.0])) == [0, 12]
    with pytest.raises(BadMedia, match="damaged or missing"):
        decode_video(bad, 24, 16, FULL_VIEW, None)


@needs_shared
def test_real_clips() -> None:
    assert SHARED is not None
    for path in sorted((SHARED / "corpora/real/video/videos").iterdir()):
        data = path.read_bytes()
        assert facts_of(data).frames > 100
        media = decode_video(data, 4, 32, FULL_VIEW, [0.1, 0.2, 0.3, 0.4])
        assert media.shape == (3, 4, 32, 32) and media.float().std() > 10


@needs_shared
def test_seeking_finds_the_same_frames_as_reading_through() -> None:
    assert SHARED is not None
    path = SHARED / "corpora/real/video/videos/video1.mp4"  # 19 key frames
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    indices = frame_indices(len(frames), 6, None)
    expected = [np.asarray(Image.fromarray(frames[i]).resize((48, 48), Image.Resampling.BICUBIC)) for i in indices]
    shown = pixels_of(decode_video(path.read_bytes(), 6, 48, FULL_VIEW, None)).astype(int)
    assert abs(shown - np.stack(expected)).max() <= 1  # torch's filter rounds otherwise than PIL's
