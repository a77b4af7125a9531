"""Clips that were cut, joined or packed by others: the frames that a person sees, each alone and all together."""

from fractions import Fraction

import pytest

from megatron_mplug2.data.video_file import VideoFile
from tests.data.clips import Drawn, number_of
from tests.data.remuxing import cut, remuxed, with_late_sound


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


@pytest.mark.parametrize("form", ["mpegts", "mpeg"])
@pytest.mark.parametrize("milliseconds", [0, 11, 500, 1033])
def test_two_clips_joined_whose_times_overlap(form: str, milliseconds: int) -> None:
    """Put one behind the other, the second begins so much after the first began, which lasts two seconds."""
    drawn = Drawn(encoder="libx264" if form == "mpegts" else "mpeg2video", frames=16, options={"bf": "2"})
    part, start = drawn.encoded(), Fraction(10)
    data = remuxed(part, form=form, later_s=start) + remuxed(part, form=form, later_s=start + Fraction(milliseconds, 1000))
    assert numbers_alone(data) == numbers_together(data) == [*range(16), *range(16)]
