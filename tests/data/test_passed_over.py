"""Frames that are neither wanted nor referred to are not decoded; the wanted ones are the same pictures, bit for bit."""

import numpy as np
import pytest

from megatron_mplug2.data.video_file import VideoFile
from tests.data.clips import Drawn, number_of
from tests.shared import SHARED, needs_shared

CODERS = {
    "h264": Drawn(frames=16, gop=8, options={"bf": "3"}),
    "h264 in ts": Drawn(form="mpegts", frames=16, gop=8, options={"bf": "3"}),
    "hevc": Drawn(encoder="libx265", frames=16, gop=8, options={"x265-params": "bframes=3:log-level=none"}),
    "mpeg4": Drawn(encoder="mpeg4", frames=16, gop=8, options={"bf": "2"}),
    "mpeg2": Drawn(encoder="mpeg2video", form="mpegts", frames=16, gop=8, options={"bf": "2"}),
    "vp9": Drawn(encoder="libvpx-vp9", form="webm", frames=16, gop=8),
    "av1": Drawn(encoder="libsvtav1", form="mp4", frames=16, gop=8),
}


def pictures(data: bytes, indices: list[int]) -> dict[int, bytes]:
    with VideoFile(data) as clip:
        return {index: np.asarray(picture).tobytes() for index, picture in clip.pictures(indices)}


def check_alone_as_together(data: bytes, every: dict[int, bytes]) -> None:
    """Each frame alone, and every fifth, against all of them decoded in one go, where none is passed over."""
    for index in every:
        assert pictures(data, [index]) == {index: every[index]}
    assert pictures(data, list(every)[::5]) == {index: every[index] for index in list(every)[::5]}


@pytest.mark.parametrize("coder", CODERS)
def test_frames_are_the_same_alone_and_together(coder: str) -> None:
    drawn = CODERS[coder]
    data = drawn.encoded()
    with VideoFile(data) as clip:
        assert [number_of(np.asarray(picture)) for _, picture in clip.pictures(range(drawn.frames))] == list(range(drawn.frames))
    check_alone_as_together(data, pictures(data, list(range(drawn.frames))))


def test_frames_are_passed_over() -> None:
    """The decoder gives fewer frames than it is sent, or the test above would show nothing."""
    with VideoFile(CODERS["h264"].encoded()) as clip:
        times = clip.timeline.times
        given = [time for time, _ in clip._decode_from(times[0], {times[6]})]
        assert times[6] in given and len(given) < 14


@needs_shared
def test_real_frames_are_the_same_alone_and_together() -> None:
    assert SHARED is not None
    data = (SHARED / "corpora/real/video/videos/video6.mkv").read_bytes()
    check_alone_as_together(data, pictures(data, list(range(40, 60))))
