"""When a clip's frames are on show, in seconds from its first frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

import av

from megatron_mplug2.data.video_file import VideoFile

_NO_RATE = Fraction(25)
"""Frames a second of a clip that does not say; FFmpeg's own choice for raw streams."""
_SAME_RATE = 0.02
"""Share by which the container's rate may differ from the counted one."""


@dataclass(frozen=True, kw_only=True)
class ClipTimes:
    """What the packets say, undecoded."""

    frames: int
    """Those of a cut-off tail count, where the container lists them."""
    last: Fraction
    """Seconds from the first frame to the last that the file still has."""
    seconds: Fraction
    """From the first frame's beginning to the last one's end."""
    rate: Fraction
    """Frames a second on average."""
    gap: Fraction
    """Seconds between two frames, the median."""


def clip_times(video: VideoFile) -> ClipTimes:
    times, tick = video.timeline.on_show, _tick(video)
    last = (times[-1] - times[0]) * tick
    gap = median_low([after - before for before, after in pairwise(times)] or [video.timeline.last_ticks]) * tick
    seconds = last + video.timeline.last_ticks * tick or gap
    counted = max((len(times) / seconds).limit_denominator(1001) if seconds else _NO_RATE, Fraction(1, 1001))
    said = Fraction(video.facts.fps).limit_denominator(1001)
    rate = said if abs(said / counted - 1) <= _SAME_RATE else counted
    return ClipTimes(frames=video.facts.frames, last=last, seconds=seconds or 1 / rate, rate=rate, gap=gap or 1 / rate)


def sound_frames(video: VideoFile) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Each frame that damage has not spoilt, ascending, with its seconds from the first frame."""
    tick = _tick(video)
    return ((video.timeline.ticks_to(time) * tick, frame) for time, frame in video.sound_frames())


def _tick(video: VideoFile) -> Fraction:
    return video.timeline.tick_s or 1 / _NO_RATE
