"""Clips that were cut, joined or packed by others: the frames that a person sees, each alone and all together."""

import io
from fractions import Fraction

import av
import pytest
import torch

from megatron_mplug2.data.decoding.contract import ClipRequest, Decoder, Transform
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.video_file import VideoFile
from tests.data.clips import Drawn, number_of, numbers_of
from tests.data.remuxing import cut, remuxed, with_late_sound
from tests.data.test_decode import pixels_of


def numbers_alone(data: bytes) -> list[int]:
    """Of every frame, each found by a seek of its own."""
    with VideoFile(data) as clip:
        return [number_of(picture) for index in range(clip.facts.frames) for _, picture in clip.pictures([index])]


def numbers_together(data: bytes) -> list[int]:
    with VideoFile(data) as clip:
        return [number_of(picture) for _, picture in clip.pictures(range(clip.facts.frames))]


@pytest.mark.parametrize("first", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("between", ["0", "2", "3"])
def test_a_clip_that_begins_within_a_group(first: int, between: str) -> None:
    """`between`: frames between two that others refer to."""
    whole = Drawn(frames=16, gop=5, options={"bf": between, "sc_threshold": "0"}).encoded()
    data = cut(whole, Fraction(first, 8))
    assert numbers_alone(data) == numbers_together(data) == list(range(first, 16))


def test_a_clip_whose_sound_begins_late() -> None:
    """FFmpeg reads the first minute to find streams: one that begins later is found on the way."""
    data = with_late_sound(Drawn(form="flv", frames=78, times=tuple(range(0, 624, 8))).encoded(), 80)
    assert numbers_alone(data) == numbers_together(data) == [number % 16 for number in range(78)]


@pytest.mark.parametrize("form", ["webm", "avi"])
@pytest.mark.parametrize("decoder", [PyavDecoder(), DaliDecoder(gpu=False)], ids=["pyav", "dali"])
def test_vp8_frames_that_are_never_shown(form: str, decoder: Decoder) -> None:
    drawn = Drawn(encoder="libvpx", form="webm", frames=16, gop=16, options={"auto-alt-ref": "0", "lag-in-frames": "0"})

    def hidden(number: int, content: bytes) -> bytes:
        return bytes([content[0] & ~0x10]) + content[1:] if number in (3, 4, 9, 15) else content

    data = remuxed(drawn.encoded(), form=form, changed=hidden)
    left = [0, 1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14]
    with av.open(io.BytesIO(data), "r") as container:
        assert len([*container.decode(video=0)]) == len(left)
    assert numbers_alone(data) == numbers_together(data) == left
    answer = decoder.clips([ClipRequest(data=data, frames=len(left), segment_shares=None, transform=Transform(resolution=48))])[0]
    assert isinstance(answer, torch.Tensor) and numbers_of(pixels_of(answer)) == left


@pytest.mark.parametrize("form", ["mpegts", "mpeg"])
@pytest.mark.parametrize("milliseconds", [0, 11, 500, 1033])
def test_two_clips_joined_whose_times_overlap(form: str, milliseconds: int) -> None:
    """Put one behind the other, the second begins so much after the first began, which lasts two seconds."""
    drawn = Drawn(encoder="libx264" if form == "mpegts" else "mpeg2video", frames=16, options={"bf": "2"})
    part, start = drawn.encoded(), Fraction(10)
    data = remuxed(part, form=form, later_s=start) + remuxed(part, form=form, later_s=start + Fraction(milliseconds, 1000))
    assert numbers_alone(data) == numbers_together(data) == [*range(16), *range(16)]


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_h264_that_is_refreshed_bit_by_bit(form: str) -> None:
    """A part of each frame is coded anew; after a seek the first frames are not whole yet."""
    data = Drawn(form=form, frames=40, options={"x264-params": "intra-refresh=1:keyint=10", "crf": "5"}).encoded()
    assert numbers_alone(data) == numbers_together(data) == [number % 16 for number in range(40)]


def test_a_flash_clip_that_ends_with_a_key_frame() -> None:
    """A seek to it lands behind it."""
    data = Drawn(form="flv", frames=11, gop=5, options={"sc_threshold": "0"}).encoded()
    with VideoFile(data) as clip:
        assert clip.timeline.keys[-1] == clip.timeline.times[-1]
    assert numbers_alone(data) == list(range(11))
