"""Clips encoded anew: which frame is shown when, their size, their key frames, and the same bytes every time."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_tools.stages import encode
from data_tools.stages.choices import Encoder
from data_tools.stages.encode import Recipe, block_size, encode_clip
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decode import decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.decoding.pixels import normalised
from megatron_mplug2.data.probing import clip_facts
from megatron_mplug2.errors import UserError
from tests.data.clips import Drawn
from tests.data.media import gradient, grey_clip
from tests.data_tools.stages.corpora import grey_steps, levels, noise_clip, turned

GREYS = [20, 60, 100, 140, 180, 220]


def key_frames(clip: bytes) -> list[int]:
    with av.open(io.BytesIO(clip), "r") as container:
        return [number for number, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]


def near(found: list[int], wanted: list[int]) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= 3 for a, b in zip(found, wanted, strict=True))


def gradient_clip(data_format: str, codec: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], **tags: int) -> bytes:
    """Four frames of a picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=data_format) as container:
        stream = container.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=tags.get("colorspace"), dst_color_range=tags.get("color_range"))
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_variable_rate_becomes_constant() -> None:
    """Frames come at 0, 40, 80, 1000, 1040 and 2000 ms; two a second and ten a second are asked for."""
    clip = grey_steps([0, 40, 80, 1000, 1040, 2000], GREYS)
    assert near(levels(encode_clip(clip, Recipe(fps=2))), [20, 100, 140, 180])
    ten = levels(encode_clip(clip, Recipe(fps=10)))
    assert near(ten, [20] + [100] * 9 + [140] + [180] * 9)
    facts = clip_facts(encode_clip(clip, Recipe(fps=10)))
    assert (facts.fps, facts.frames, facts.duration_s, facts.variable_rate) == (10.0, 20, 2.0, False)


def test_rates_up_and_down() -> None:
    clip = grey_clip(GREYS)  # 8 frames a second
    assert near(levels(encode_clip(clip, Recipe())), GREYS)
    assert near(levels(encode_clip(clip, Recipe(fps=16))), [level for level in GREYS for _ in range(2)])
    assert near(levels(encode_clip(clip, Recipe(fps=4))), GREYS[::2])
    assert near(levels(encode_clip(clip, Recipe(fps=0.5))), GREYS[:1])


def test_rounded_and_late_times() -> None:
    """Matroska counts milliseconds; times are relative to the first frame, wherever it stands."""
    assert near(levels(encode_clip(grey_clip(GREYS, form="matroska"), Recipe())), GREYS)
    late = grey_steps([5000 + 40 * number for number in range(6)], GREYS)
    assert near(levels(encode_clip(late, Recipe())), GREYS)
    assert near(levels(encode_clip(late, Recipe(fps=12.5))), GREYS[::2])


@pytest.mark.parametrize(("form", "codec"), [("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("matroska", "libvpx-vp9"), ("gif", "gif")])
def test_other_containers_and_codecs(form: str, codec: str) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8" if codec == "gif" else "yuv420p"
        for number, level in enumerate(GREYS * 2):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    found = levels(encode_clip(file.getvalue(), Recipe()))
    assert len(found) == 12 and all(abs(a - b) <= 12 for a, b in zip(found, GREYS * 2, strict=True))


def test_size_key_frames_and_no_sound() -> None:
    clip = encode_clip(noise_clip(1, frames=20, size=(240, 132)), Recipe(short_side=63, keyframe_every=6))
    assert key_frames(clip) == [0, 6, 12, 18]
    with av.open(io.BytesIO(clip), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, len(container.streams)) == ("h264", 112, 64, 1)


@pytest.mark.parametrize(
    ("size", "short_side", "wanted"),
    [
        ((1920, 1080), 256, (448, 256)),
        ((1080, 1920), 256, (256, 448)),
        ((320, 180), 256, (320, 176)),
        ((35, 33), 256, (32, 32)),
        ((1, 9), 64, (16, 16)),
    ],
)
def test_block_sizes(size: tuple[int, int], short_side: int, wanted: tuple[int, int]) -> None:
    assert block_size(*size, short_side) == wanted


@pytest.mark.parametrize("tags", [{}, {"colorspace": 1, "color_range": 1}, {"colorspace": 5, "color_range": 2}])
def test_colors_stay(tags: dict[str, int]) -> None:
    """Untagged; BT.709; BT.601 in full range: what is decoded afterwards is what was decoded before."""
    clip = gradient_clip("mp4", "libx264", gradient(96, 128), **tags)
    before, after = (decode_video(data, 2, 32, FULL_VIEW, None) for data in (clip, encode_clip(clip, Recipe(crf=10))))
    assert float((normalised(before) - normalised(after)).abs().mean()) < 0.04  # of about 4


def test_turned_clips_become_upright() -> None:
    clip = turned(gradient_clip("mp4", "libx264", gradient(96, 128)))
    anew = encode_clip(clip, Recipe(crf=10))
    with av.open(io.BytesIO(anew), "r") as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (96, 128, 0)
    before, after = (decode_video(data, 1, 32, FULL_VIEW, None) for data in (clip, anew))
    assert float((normalised(before) - normalised(after)).abs().mean()) < 0.04


def test_a_turn_that_is_not_quite_a_quarter() -> None:
    clip = Drawn(turned=89.999, frames=2).encoded()
    anew = encode_clip(clip, Recipe(crf=10))
    assert (clip_facts(clip).width, clip_facts(clip).height) == (clip_facts(anew).width, clip_facts(anew).height) == (64, 96)
    before, after = (decode_video(data, 1, 32, FULL_VIEW, None) for data in (clip, anew))
    assert float((normalised(before) - normalised(after)).abs().mean()) < 0.2


@pytest.mark.parametrize("encoder", [Encoder.X264, Encoder.X265])
def test_same_bytes(encoder: Encoder) -> None:
    clip = noise_clip(3)
    recipe = Recipe(encoder=encoder, keyframe_every=10)
    anew = encode_clip(clip, recipe)
    assert anew == encode_clip(clip, recipe)
    assert key_frames(anew) == [0, 10, 20]


def test_damage() -> None:
    """Some frames in the middle may be lost, and a short tail; not the larger part of a clip."""
    clip = grey_clip([100] * 40, keyframe_every=2)
    whole = levels(encode_clip(clip, Recipe()))
    with av.open(io.BytesIO(clip), "r") as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos is not None]
    hurt = bytearray(clip)
    at, size = places[11]
    hurt[at : at + size] = bytes(size)
    assert near(levels(encode_clip(bytes(hurt), Recipe())), whole)
    for at, size in places[10:]:
        hurt[at : at + size] = bytes(size)
    with pytest.raises(BadMedia, match="of 40 frames are damaged or missing"):
        encode_clip(bytes(hurt), Recipe())
    for bad in (b"", b"garbage", clip[:300]):
        with pytest.raises(BadMedia):
            encode_clip(bad, Recipe())


def test_a_clip_that_claims_to_last_for_days() -> None:
    clip = grey_steps([0, 40, 60_000_000], [50, 60, 70])
    with pytest.raises(BadMedia, match=r"0 s long: .* frames"):
        encode_clip(clip, Recipe(fps=25))


def test_an_hour_of_one_frame() -> None:
    """At its own average rate it stays small."""
    found = levels(encode_clip(grey_steps([0, 3_600_000], [50, 60]), Recipe()))
    assert len(found) <= 4 and near(found[:1], [50])


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="NVENC may be there")
def test_an_encoder_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"h264_nvenc cannot be opened here .* use --encoder libx264"):
        encode_clip(noise_clip(1, frames=2), Recipe(encoder=Encoder.H264_NVENC))


def test_a_clip_that_is_too_wide_for_the_encoder() -> None:
    """It alone is left out: x264 takes 16,384 pixels on a side at most."""
    wide = gradient_clip("matroska", "ffv1", np.zeros((16, 20_000, 3), np.uint8))
    with pytest.raises(BadMedia, match=r"libx264 takes no frames of 20000x16 pixels"):
        encode_clip(wide, Recipe())


def test_an_encoder_that_is_lost_later_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clip is left out for it, whatever was found before."""
    with pytest.raises(BadMedia):
        encode_clip(gradient_clip("matroska", "ffv1", np.zeros((16, 20_000, 3), np.uint8)), Recipe())

    def lost(*_: object) -> None:
        raise ValueError("no session left")

    monkeypatch.setattr(encode, "_opened", lost)
    with pytest.raises(UserError, match=r"libx264 cannot be opened here \(no session left\)"):
        encode_clip(noise_clip(1, frames=2), Recipe())


def test_an_encoder_that_fails_once_loses_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, calls = encode._opened, []

    def failing_once(*arguments: object) -> av.VideoStream:
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("busy")
        return opened(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "_opened", failing_once)
    with pytest.raises(UserError, match="busy"):
        encode_clip(noise_clip(1, frames=2), Recipe())
