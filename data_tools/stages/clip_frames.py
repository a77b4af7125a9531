"""A clip from its first frame to its last: each sound frame with its time."""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from types import TracebackType

import av
from av.error import FFmpegError
from av.stream import Disposition

from megatron_mplug2.data.bad_media import BadMedia

_CONTAINERS = "mov,matroska,avi,flv,mpegts,mpeg,ogg,asf,h264,hevc,mpegvideo,gif"
"""No playlists: one would make FFmpeg open other files."""
_NO_TIMES = {"avi", "asf", "h264", "hevc", "mpegvideo"}
"""Containers without presentation times that can be trusted: their frames are taken to come at equal distances."""
_NO_RATE = Fraction(25)
"""Frames a second of a clip that does not say; FFmpeg's own choice for raw streams."""
_SAME_RATE = 0.02
"""Share by which the container's rate may differ from the counted one."""


@dataclass(frozen=True, kw_only=True)
class ClipTimes:
    """What the packets say, undecoded."""

    frames: int
    """Those of a cut-off tail count, where the container lists them."""
    start: Fraction
    """Presentation time of the first frame, seconds."""
    last: Fraction
    """Seconds from the first frame to the last that the file still has."""
    seconds: Fraction
    """From the first frame's beginning to the last one's end."""
    rate: Fraction
    """Frames a second on average."""
    gap: Fraction
    """Seconds between two frames, the median."""


class ClipFrames:
    """An open clip. Use as a context manager. Raises BadMedia where the file is no clip or has no frames."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._container, self._stream = _open(data)
        try:
            self.times = self._read_times()
        except BadMedia:
            self._container.close()
            raise

    def __enter__(self) -> "ClipFrames":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def sound(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Seconds from the first frame's beginning, ascending, and the frame; those that damage has spoilt are passed over."""
        self._container.close()
        self._container, self._stream = _open(self._data)
        last: Fraction | None = None
        for number, (frame, sound) in enumerate(self._decoded()):
            if self._counted or frame.pts is None or frame.time_base is None:
                at = number / self.times.rate
            else:
                at = frame.pts * frame.time_base - self.times.start
            if last is not None and at <= last:
                at = last + 1 / self.times.rate
            last = at
            if sound:
                yield at, frame

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Frames in the order of their presentation, and whether they are sound: neither damaged nor predicted from what is lost."""
        sound = True
        with suppress(FFmpegError):  # the file ends here
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    sound = False
                    continue
                for frame in frames:
                    assert isinstance(frame, av.VideoFrame)
                    sound = (sound or frame.key_frame) and not frame.is_corrupt
                    yield frame, sound

    def _read_times(self) -> ClipTimes:
        packets: list[tuple[int | None, int]] = []
        with suppress(FFmpegError):  # a cut-off tail
            packets += ((p.pts, p.duration or 0) for p in self._container.demux(self._stream) if p.size and not p.is_discard)
        if not packets:
            raise BadMedia("no frames")
        frames = max(len(packets), sum(not entry.is_discard for entry in self._stream.index_entries))
        tick = self._stream.time_base or Fraction(0)
        said = self._stream.average_rate or self._stream.guessed_rate or _NO_RATE
        known = sorted((pts, duration) for pts, duration in packets if pts is not None)
        self._counted = self._container.format.name in _NO_TIMES or len(known) < len(packets) or not tick
        if self._counted:
            return ClipTimes(
                frames=frames, start=Fraction(0), last=(len(packets) - 1) / said, seconds=len(packets) / said, rate=said, gap=1 / said
            )
        (first, _), (last, duration) = known[0], known[-1]
        seconds = (last - first) * tick + (duration * tick or 1 / said)
        gaps = [(after - before) * tick for (before, _), (after, _) in pairwise(known)]
        gap = median_low(gaps) if gaps else seconds
        counted = max((len(packets) / seconds).limit_denominator(1001), Fraction(1, 1001))
        rate = said if abs(said / counted - 1) <= _SAME_RATE else counted
        return ClipTimes(frames=frames, start=first * tick, last=(last - first) * tick, seconds=seconds, rate=rate, gap=gap)


def _open(data: bytes) -> tuple[av.container.InputContainer, av.VideoStream]:
    if not data:
        raise BadMedia("empty file")
    try:
        container = av.open(io.BytesIO(data), mode="r", options={"format_whitelist": _CONTAINERS}, metadata_errors="ignore")
    except (FFmpegError, ValueError) as error:
        raise BadMedia(f"not a readable clip: {getattr(error, 'strerror', None) or error}") from None
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        container.close()
        raise BadMedia("no video stream")
    streams[0].codec_context.thread_count = 1  # processes work side by side already
    return container, streams[0]
