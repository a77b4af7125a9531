"""A clip in memory, read with PyAV (FFmpeg): counts frames without decoding, decodes the ones that are asked for."""

import io
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from numpy.typing import NDArray

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia
from megatron_mplug2.data.frame_headers import forms_of
from megatron_mplug2.data.sample_tables import lists_too_many
from megatron_mplug2.data.timeline import Packet, Timeline, jumps_back, read_timeline
from megatron_mplug2.data.upright import reason_of, upright_rgb

# Containers, not playlists: a playlist would make FFmpeg open other files.
_FORMATS = "mov,matroska,avi,flv,mpegts,mpeg,ogg,asf,h264,hevc,mpegvideo,gif"

_NO_TIMES = {"avi", "asf", "mpeg", "h264", "hevc", "mpegvideo"}
"""Containers without presentation times (ASF, MPEG-PS: with times that differ after a seek): their frames are counted as they come out of
the decoder."""

_SOUGHT_BY_DTS = {"mpegts"}
"""A seek to the presentation time of a key frame lands after it."""

_JOINED = {"mpegts", "mpeg"}
"""Containers that still are one when put one behind the other: the times of their frames may jump back, or leap ahead."""

_PASSES_OVER = {"h264", "hevc", "mpeg4", "mpeg2video"}
"""Codecs whose decoder can be told with each packet not to decode a frame that no other refers to: half of H.264's by default. Such a frame
need be decoded only if it is wanted. (dav1d, for AV1, takes the word for later packets too.)"""

_VP8_SHOWN = 0x10
"""In a frame's first byte (RFC 6386, 9.1); one without it is referred to and never shown. (VP9 packs such a frame with another.)"""

_REORDERED = 16
"""Most frames that a decoder may give before one that is to be shown earlier: as many as H.264 keeps."""

MAX_RUN = 1 << 14
"""Most frames that are decoded to reach one: nine minutes of 30 frames a second without a key frame."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a clip's container says."""

    frames: int
    """Frames that the clip should have: those of a cut-off or damaged tail count."""
    width: int
    """Pixels, as stored."""
    height: int
    fps: float
    """Frames a second on average; 0 where the container does not say."""


class VideoFile:
    """An open clip. Use as a context manager; every method raises BadMedia when the file does not give what is asked for."""

    def __init__(self, data: bytes) -> None:
        if not data:
            raise BadMedia("empty file")
        if lists_too_many(data):
            raise BadMedia("lists more frames than it has bytes")
        self._data = data
        self._open()
        try:
            self.timeline = self._read_timeline()
        except BadMedia:
            self._container.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    @property
    def facts(self) -> VideoFacts:
        context = self._stream.codec_context
        return VideoFacts(
            frames=max(self._indexed, len(self.timeline.times)),
            width=context.width,
            height=context.height,
            fps=float(self._rate),
        )

    @property
    def codec(self) -> str:
        """FFmpeg's name of what the frames are coded in: "h264", "vp9" ..."""
        return self._stream.codec_context.codec.canonical_name

    @property
    def container(self) -> str:
        """FFmpeg's name: "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm" ..."""
        return self._container.format.name

    @property
    def alone(self) -> bool:
        """Whether it is the only picture in its container: no cover, no other view."""
        return len(self._container.streams.video) == 1

    @property
    def whole(self) -> bool:
        """Whether its packets are all frames that the container lists: none cut off, none left out by an edit, none that is never shown."""
        return not self._unshown and self._indexed <= len(self.timeline.times)  # Matroska's table has key frames only

    def told_size(self) -> tuple[int, int]:
        """Width and height that the container itself tells; 0 where it does not. (`facts` may have those of the first frame.)"""
        options = {"codec_whitelist": "none", "probesize": "32", "analyzeduration": "0"}  # so that no frame is looked at
        form = self.container.partition(",")[0]
        try:
            with av.open(io.BytesIO(self._data), mode="r", format=form, options=options, metadata_errors="ignore") as container:
                context = container.streams[self._stream.index].codec_context
                return (context.width, context.height) if isinstance(context, av.VideoCodecContext) else (0, 0)
        except (FFmpegError, ValueError, IndexError):
            return 0, 0

    def keeps_its_form(self) -> bool:
        """Whether no frame names, in its own header, another size or format than a frame before it. For codecs of `frame_headers`, and of a
        clip that is whole and has times."""
        self._seek(self.timeline.times[0])
        extradata, named = self._stream.codec_context.extradata or b"", dict[str, bytes | int]()
        for packet in self._packets():
            if packet.has_sidedata("new_extradata"):  # QuickTime: frames of another description
                return False
            for form in forms_of(self.codec, memoryview(packet), extradata) if packet.size else ():
                if "unknown" in form or any(named.setdefault(what, value) != value for what, value in form.items()):
                    return False
        return True

    def first_frame(self) -> av.VideoFrame:
        """The first sound frame as it is stored. Only a decoded frame tells how it is turned, its format and its colours."""
        frame = next((frame for _, frame in self._decode_from(self.timeline.times[0]) if frame is not None), None)
        if frame is None:
            raise BadMedia("no frame can be decoded")
        return frame

    def sound_frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Every frame that damage has not spoilt, as it is stored, with its time in the timeline's ticks, ascending."""
        reached = self.timeline.times[0] - 1
        for time, frame in self._decode_from(self.timeline.times[0]):
            if frame is not None and time > reached:
                reached = time
                yield time, frame

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The asked-for frames upright, [H, W, 3] RGB, with their numbers, ascending, each once. Decodes from the nearest key frame."""
        frames: Iterator[tuple[int, av.VideoFrame | None]] = iter(())
        wanted = frozenset(self.timeline.times[index] for index in indices if index < len(self.timeline.times))
        reached: int | None = None
        for index in sorted(set(indices)):
            if index >= len(self.timeline.times):
                raise BadMedia(f"frame {index} is cut off")
            time = self.timeline.times[index]
            key = self.timeline.key_before(time)
            if self.timeline.frames_between(max(key, reached or key), time) > MAX_RUN:
                raise BadMedia(
                    f"more than {MAX_RUN} frames have to be decoded to reach frame {index}: `mplug2 data transcode` adds key frames"
                )
            if reached is None or key > reached:
                frames = self._decode_from(key, wanted)
            came, frame = _next_at(time, frames)
            earlier = self.timeline.key_before(key - 1) if key > self.timeline.times[0] else key
            if not came and earlier < key and self.timeline.frames_between(earlier, time) <= MAX_RUN:
                # Where H.264 is refreshed bit by bit, the first frames from its key frame on are whole only after the one before.
                frames = self._decode_from(earlier, wanted)
                _, frame = _next_at(time, frames)
            if frame is None:
                raise BadMedia(f"frame {index} is damaged or missing")
            reached = time
            yield index, upright_rgb(frame)

    def _open(self) -> None:
        try:
            self._container = av.open(io.BytesIO(self._data), mode="r", options={"format_whitelist": _FORMATS}, metadata_errors="ignore")
        except (FFmpegError, ValueError) as error:
            raise BadMedia(f"not a readable clip: {reason_of(error)}") from None
        streams = [stream for stream in self._container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            self._container.close()
            raise BadMedia("no video stream")
        self._stream = max(streams, key=_shown_rather)
        if self._stream.codec_context is None:
            self._container.close()
            raise BadMedia("no decoder for its codec")
        if self._stream.codec_context.width * self._stream.codec_context.height > MAX_PIXELS:
            self._container.close()
            raise BadMedia(f"frames of {self._stream.codec_context.width}x{self._stream.codec_context.height} pixels are too large")
        self._stream.codec_context.thread_count = 1  # workers decode side by side already

    @property
    def _rate(self) -> Fraction:
        return self._stream.average_rate or self._stream.guessed_rate or Fraction(0)

    def _read_timeline(self) -> Timeline:
        packets: list[Packet] = []
        self._indexed = sum(not entry.is_discard for entry in self._stream.index_entries)  # mp4 and mov list all frames, cut off or not
        self._unshown = 0
        may_hide = self.codec == "vp8"
        for packet in self._packets():  # of a cut-off tail, what is missing shows when it is asked for
            if packet.is_discard:
                self._unshown += 1
            elif may_hide and packet.size and not memoryview(packet)[0] & _VP8_SHOWN:
                self._unshown += 1
                self._indexed -= 1
            elif packet.size:
                packets.append(Packet(pts=packet.pts, dts=packet.dts, duration=packet.duration or 0, key=packet.is_keyframe))
        container = self._container.format.name
        try:
            return read_timeline(
                packets,
                counted=container in _NO_TIMES or (container in _JOINED and jumps_back(packets)),
                joined=container in _JOINED,
                indexed=self._indexed,
                tick_s=self._stream.time_base or Fraction(0),
                rate=self._rate,
            )
        except ValueError:
            raise BadMedia("no frames") from None

    def _packets(self) -> "Iterator[av.Packet[av.VideoStream]]":
        """Of the stream, up to where the file ends, and an empty one that empties the decoder."""
        # IndexError: behind the last packet PyAV empties the decoders, also of streams that it met on the way only, and trips over them.
        with suppress(FFmpegError, IndexError):
            yield from self._container.demux(self._stream)

    def _decode_from(self, key: int, wanted: Set[int] = frozenset()) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """Frames with their times from the key frame at time `key` on; None stands for one that damage has spoilt.

        With the times of the `wanted` frames, others may be missing.
        """
        if self.timeline.counted:
            self._container.close()
            self._open()
            yield from ((number, frame) for number, (_, frame) in enumerate(self._decode()))
        else:
            self._seek(key)
            yield from ((time, frame) for time, frame in self._decode(wanted) if time is not None)

    def _seek(self, key: int) -> None:
        try:
            by_dts = self._container.format.name in _SOUGHT_BY_DTS
            self._container.seek(self.timeline.entries.get(key, key) if by_dts else key, stream=self._stream)
        except FFmpegError as error:
            raise BadMedia(f"cannot seek: {reason_of(error)}") from None

    def _decode(self, wanted: Set[int] = frozenset()) -> Iterator[tuple[int | None, av.VideoFrame | None]]:
        context, sound = self._stream.codec_context, True
        choosy = bool(wanted) and self.codec in _PASSES_OVER
        for packet in self._packets():
            if choosy:
                context.skip_frame = "NONREF" if packet.pts is not None and packet.pts not in wanted else "DEFAULT"
            try:
                frames = packet.decode()
            except FFmpegError:
                sound = False  # what follows is predicted from what is lost, up to the next key frame
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)
                sound = (sound or frame.key_frame) and not frame.is_corrupt
                yield frame.pts, frame if sound else None


def _shown_rather(stream: av.VideoStream) -> tuple[bool, int]:
    """Of several: the one that the container says is shown, then the largest, then the first. So FFmpeg and players choose."""
    context = stream.codec_context
    return bool(stream.disposition & Disposition.default), context.width * context.height if context else 0


def _next_at(time: int, frames: Iterator[tuple[int, av.VideoFrame | None]]) -> tuple[bool, av.VideoFrame | None]:
    """Whether the frame of this time came, and the frame, None where damage has spoilt it; looks no further than it can be put back."""
    later = 0
    for at, frame in frames:
        if at == time:
            return True, frame
        later += at > time
        if later > _REORDERED:
            break
    return False, None
