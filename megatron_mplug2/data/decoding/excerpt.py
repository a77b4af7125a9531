"""The part of a clip that the wanted frames are decoded from, as a clip of its own.

DALI 2.4 makes no index of a clip, whatever its `build_index` says: it decodes all frames from the first one to the last that is wanted, and
converts each. Of five seconds in which every eighth frame is a key frame, eight frames need a third.
"""

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import av

from megatron_mplug2.data.video_file import VideoFile

Encoded: TypeAlias = "av.Packet[av.VideoStream]"

WORTH = 32
"""Frames that an excerpt saves at least: to write it takes half a millisecond."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    data: bytes
    frames: list[int]
    """Numbers of the wanted frames in it, in the order in which they were asked for."""


def excerpt(video: VideoFile, indices: Sequence[int]) -> Excerpt | None:
    """None where it saves too little, for frames that are not there, and where packets lack a time or come after a key frame and are shown
    before it (an open group).

    Of a whole clip with presentation times, in MP4 or Matroska.
    """
    times = video.timeline.times
    if max(indices) >= len(times):
        return None
    ends = _ends(video, [times[index] for index in indices])
    needed = sum(bisect_left(times, end) - bisect_left(times, key) + 1 for key, end in ends.items())
    if max(indices) + 1 - needed < WORTH:
        return None
    packets = list(_needed(video.packets(min(ends)), ends))
    kept = sorted(packet.pts for packet in packets if packet.pts is not None and packet.dts is not None)
    if len(kept) < len(packets) or not set(ends.values()) <= set(kept) or any(_shown_early(packets)):
        return None
    return Excerpt(data=_written(video, packets), frames=[bisect_left(kept, times[index]) for index in indices])


def _ends(video: VideoFile, wanted: Sequence[int]) -> dict[int, int]:
    """The time of the last wanted frame of each group, by that of the group's key frame."""
    ends: dict[int, int] = {}
    for time in sorted(wanted):
        ends[video.timeline.key_before(time)] = time
    return ends


def _needed(packets: Iterator[Encoded], ends: dict[int, int]) -> Iterator[Encoded]:
    """Of each group with an end the packets up to it, in decoding order: no later one is needed for it."""
    end: int | None = None
    left = len(ends)
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
            end = ends.get(packet.pts)
        if end is None:
            continue
        yield packet
        if packet.pts == end:
            end, left = None, left - 1
            if not left:
                return


def _shown_early(packets: Sequence[Encoded]) -> Iterator[bool]:
    key = 0
    for packet in packets:
        assert packet.pts is not None
        if packet.is_keyframe:
            key = packet.pts
        yield packet.pts < key


def _written(video: VideoFile, packets: Sequence[Encoded]) -> bytes:
    """The first frame comes on at 0, since a container that begins later says so by an edit."""
    file = io.BytesIO()
    start = packets[0].pts
    with av.open(file, "w", format="matroska" if "matroska" in video.container else "mp4") as container:
        stream = container.add_stream_from_template(video.stream, opaque=True)
        for packet in packets:
            assert packet.pts is not None and packet.dts is not None and start is not None
            packet.stream, packet.pts, packet.dts = stream, packet.pts - start, packet.dts - start
            container.mux(packet)
    return file.getvalue()
