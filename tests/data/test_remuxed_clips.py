"""Clips that were cut, joined or packed by others: the frames that a person sees, each alone and all together."""

import io
from fractions import Fraction

import av
import pytest
import torch

from data_tools.stages.encode import Recipe, encode_clip
from megatron_mplug2.data.decoding.contract import ClipRequest, Decoder, Transform
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.probing import clip_facts
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


@pytest.mark.parametrize("form", ["mpegts", "mpeg"])
@pytest.mark.parametrize("seconds", [60, 3600, 72_000])
def test_two_clips_joined_whose_times_leap(form: str, seconds: int) -> None:
    """Of two recordings, the second made so much later: nothing is to be seen between them."""
    part = Drawn(encoder="libx264" if form == "mpegts" else "mpeg2video", frames=16, options={"bf": "2"}).encoded()
    data = remuxed(part, form=form, later_s=Fraction(10)) + remuxed(part, form=form, later_s=Fraction(10 + seconds))
    assert numbers_alone(data) == numbers_together(data) == [*range(16), *range(16)]
    facts = clip_facts(data)
    assert (facts.frames, facts.fps, facts.duration_s, facts.variable_rate) == (32, 8, 4, False)
    with VideoFile(data) as clip:
        assert [clip.timeline.within((1.5, end)) for end in (2.5, seconds)] == [range(12, 20), range(12, 32)]
    assert numbers_together(encode_clip(data, Recipe())) == [*range(16), *range(16)]


@pytest.mark.parametrize("between", ["0", "2"])
@pytest.mark.parametrize("gop", [250, 5])
def test_a_pause_in_one_recording(gop: int, between: str) -> None:
    """From two to 22 seconds, as of a screen on which nothing moves: nothing begins anew behind it."""
    times = (*range(16), *range(176, 192))
    data = Drawn(form="mpegts", frames=32, gop=gop, times=times, options={"bf": between, "sc_threshold": "0"}).encoded()
    with VideoFile(data) as clip:
        assert [clip.timeline.within(span) for span in ((1.5, 22.5), (5.0, 6.0), (23.0, 25.0))] == [
            range(12, 20),
            range(15, 16),
            range(24, 32),
        ]
        assert clip.timeline.duration_s == 24
    assert clip_facts(data).variable_rate


@pytest.mark.parametrize("gop", [1, 250])
def test_a_frame_every_fifteen_seconds(gop: int) -> None:
    data = Drawn(form="mpegts", frames=6, gop=gop, times=tuple(range(0, 720, 120))).encoded()
    with VideoFile(data) as clip:
        assert clip.timeline.within((30.0, 31.0)) == range(2, 3) and 75 < clip.timeline.duration_s <= 90
    assert numbers_alone(data) == numbers_together(data) == list(range(6))


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_h264_that_is_refreshed_bit_by_bit(form: str) -> None:
    """A part of each frame is coded anew; after a seek the first frames are not whole yet."""
    data = Drawn(form=form, frames=40, options={"x264-params": "intra-refresh=1:keyint=10", "crf": "5"}).encoded()
    assert numbers_alone(data) == numbers_together(data) == [number % 16 for number in range(40)]


@pytest.mark.parametrize("between", ["0", "2"])
@pytest.mark.parametrize("size", [(96, 64), (320, 240)])
def test_a_program_stream(size: tuple[int, int], between: str) -> None:
    """After a seek in MPEG-PS FFmpeg guesses the times of frames that share a pack, and finds no key frame before the first."""
    drawn = Drawn(encoder="mpeg2video", frames=30, gop=7, width=size[0], height=size[1], options={"bf": between})
    data = remuxed(drawn.encoded(), form="mpeg", later_s=Fraction(10))
    assert numbers_alone(data) == numbers_together(data) == [number % 16 for number in range(30)]


@pytest.mark.parametrize("form", ["avi", "asf"])
@pytest.mark.parametrize("encoder", ["mpeg4", "mjpeg"])
def test_containers_without_times_of_frames_that_were_left_out(form: str, encoder: str) -> None:
    """As a camera leaves them out in the dark. They are found by counting; when they come on is known all the same."""
    times = (0, 1, 2, 3, 4, 20, 21, 22, 40, 41, 42, 43)
    jpeg = encoder == "mjpeg"
    data = Drawn(encoder=encoder, form=form, times=times, pix_fmt="yuvj420p" if jpeg else "yuv420p", full_range=jpeg).encoded()
    with VideoFile(data) as clip:
        assert clip.timeline.counted
        assert [clip.timeline.within(span) for span in ((0.2, 0.6), (2.5, 3.0), (3.0, 4.0), (5.0, 9.0))] == [
            range(2, 5),
            range(5, 8),
            range(7, 8),
            range(8, 12),
        ]
    assert numbers_alone(data) == numbers_together(data) == list(range(12))
    facts = clip_facts(data)
    assert facts.variable_rate and abs(facts.duration_s - 5.5) < 0.5
    seen = numbers_together(encode_clip(data, Recipe(fps=8)))
    assert seen[:44] == [max(place for place, time in enumerate(times) if time <= now) for now in range(44)]


def test_a_flash_clip_that_ends_with_a_key_frame() -> None:
    """A seek to it lands behind it."""
    data = Drawn(form="flv", frames=11, gop=5, options={"sc_threshold": "0"}).encoded()
    with VideoFile(data) as clip:
        assert clip.timeline.keys[-1] == clip.timeline.times[-1]
    assert numbers_alone(data) == list(range(11))
