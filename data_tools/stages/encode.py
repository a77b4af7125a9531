"""A clip encoded anew for training: small, at a constant rate, with a key frame every few frames, without sound.

What a loader pays for a clip grows with its size and with the frames between the key frame and the one that is wanted.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.codec.context import Flags
from av.error import FFmpegError

from data_tools.stages.choices import Encoder
from data_tools.stages.clip_times import ClipTimes, clip_times, sound_frames
from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia
from megatron_mplug2.data.upright import quarter_turns
from megatron_mplug2.data.video_file import VideoFile
from megatron_mplug2.errors import UserError

MOST_FRAMES = 1 << 18
"""Frames of the longest clip that is written: two hours at 30 a second. A damaged time stamp may claim centuries."""
MOST_LOST = 0.1
"""Share of a clip's frames that damage may have spoilt; a gap shows the frame before it, an end that is missing is cut."""
BLOCK = 16
"""Pixels of H.264's blocks on each side; a codec pads a frame to whole ones. To make a GPU's decoder takes 50 ms, and DALI 2.4 uses one for
a next clip only where nothing was padded. At 256 pixels this stretches a clip by 3 % at most; the model's squares stretch it further."""
USUAL = 448, 256
"""Pixels of frames that every encoder takes."""
_BT601, _LIMITED = 6, 1
"""FFmpeg's numbers of the color matrix and range in which every clip is written: what a decoder takes a clip for that does not say."""
_TURNS = ("", "transpose=cclock", "hflip,vflip", "transpose=clock")
"""Filters for 0 to 3 quarter turns counterclockwise."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How clips are encoded."""

    short_side: int = 256
    """Pixels; smaller frames are enlarged to whole blocks at most."""
    fps: float | None = None
    """Frames a second; None for the clip's own average."""
    keyframe_every: int = 8
    """Frames."""
    encoder: Encoder = Encoder.X264
    crf: int = 23
    """Quality, in the encoder's scale: less is better; x264's own default."""


def encode_clip(data: bytes, recipe: Recipe) -> bytes:
    """An MP4 of the clip: upright, of whole blocks. Its frame n is the one that the clip shows n / fps seconds after its first frame.

    The software encoders give the same bytes for the same clip on any number of cores. Raises BadMedia for a clip that cannot be decoded,
    is too long, or has lost too many frames; UserError where the encoder cannot be opened on this machine.
    """
    with VideoFile(data) as clip:
        times = clip_times(clip)
        rate = Fraction(recipe.fps).limit_denominator(1001) if recipe.fps else times.rate
        slots = max(1, round(times.seconds * rate))
        if slots > MOST_FRAMES:
            raise BadMedia(f"{float(times.seconds):.0f} s long: {slots} frames")
        file = io.BytesIO()
        with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
            stream = None
            scaler = Scaler(recipe.short_side)
            for number, frame in enumerate(_slots(clip, times, slots, rate)):
                picture = scaler.scaled(frame)
                if stream is None:
                    stream = _stream(out, recipe, rate, picture)
                picture.pts, picture.time_base = number, 1 / rate
                picture.pict_type = av.video.frame.PictureType.NONE  # the source's key frames are not to be kept
                out.mux(stream.encode(picture))
            assert stream is not None
            out.mux(stream.encode(None))
    return file.getvalue()


def _slots(clip: VideoFile, times: ClipTimes, slots: int, rate: Fraction) -> Iterator[av.VideoFrame]:
    """The frame on show at each of the times 0, 1 / rate, 2 / rate ..., up to where the clip ends or is lost. Raises BadMedia.

    A frame counts as on show half a frame early, so that time stamps rounded to milliseconds lead to no doubled and dropped frames.
    """
    early = min(1 / rate, times.gap) / 2
    shown: av.VideoFrame | None = None
    sound = given = 0
    at = Fraction(0)
    for at, frame in sound_frames(clip):
        sound += 1
        while given < slots and given / rate + early < at:
            yield shown or frame  # where what came before is lost
            given += 1
        shown = frame
    lost = times.frames - sound
    if shown is None or lost > MOST_LOST * times.frames:
        raise BadMedia(f"{lost} of {times.frames} frames are damaged or missing")
    end = min(slots, given + 1) if at + early < times.last else slots
    while given < end:
        yield shown
        given += 1


class Scaler:
    """Turns, shrinks and converts frames to 4:2:0 in 8 bits; all frames get the first one's size."""

    def __init__(self, short_side: int) -> None:
        self._short_side = short_side
        self._size: tuple[int, int] | None = None
        self._graph: av.filter.Graph | None = None
        self._fits: tuple[object, ...] = ()

    def scaled(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Raises BadMedia for frames that are too large or cannot be converted."""
        turns = quarter_turns(frame)
        shape = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turns)
        try:
            if self._graph is None or shape != self._fits:
                self._graph, self._fits = self._new_graph(frame, turns), shape
            self._graph.push(frame)
            return cast(av.VideoFrame, self._graph.pull())
        except FFmpegError as error:
            raise BadMedia(f"frame not convertible: {error.strerror}") from None

    def _new_graph(self, frame: av.VideoFrame, turns: int) -> av.filter.Graph:
        if frame.width * frame.height > MAX_PIXELS:
            raise BadMedia(f"frames of {frame.width}x{frame.height} pixels are too large")
        lies = turns % 2 == 1
        if self._size is None:
            self._size = block_size(*((frame.height, frame.width) if lies else (frame.width, frame.height)), self._short_side)
        width, height = reversed(self._size) if lies else self._size
        source = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
        scale = f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int+bitexact:out_color_matrix=bt601:out_range=tv"
        steps = [scale, "format=yuv420p", *_TURNS[turns].split(",")]
        graph = av.filter.Graph()
        graph.threads = 1
        contexts = [graph.add("buffer", f"{source}:colorspace={int(frame.colorspace)}:range={int(frame.color_range)}")]
        contexts += [graph.add(*step.split("=", 1)) for step in steps if step]
        graph.link_nodes(*contexts, graph.add("buffersink")).configure()
        return graph


def block_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """The size with its short side at `short_side` pixels or, where it has fewer, its own; both in whole blocks, the nearest."""
    scale = min(1.0, short_side / min(width, height))
    return tuple(max(1, round(side * scale / BLOCK)) * BLOCK for side in (width, height))  # type: ignore[return-value]


def _stream(out: av.container.OutputContainer, recipe: Recipe, rate: Fraction, first: av.VideoFrame) -> av.VideoStream:
    """Raises BadMedia where the encoder refuses frames of this size alone, UserError where it cannot be opened here."""
    size = first.width, first.height
    try:
        return _opened(out, recipe, rate, *size)
    except (FFmpegError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        if _opens(recipe, rate, *USUAL) and not _opens(recipe, rate, *size):
            raise BadMedia(f"{recipe.encoder} takes no frames of {first.width}x{first.height} pixels ({what})") from None
        instead = "" if recipe.encoder is Encoder.X264 else f", or use --encoder {Encoder.X264}"
        raise UserError(
            f"the encoder {recipe.encoder} cannot be opened here ({what}): check the options and, for NVENC, the GPU's driver{instead}"
        ) from None


def _opens(recipe: Recipe, rate: Fraction, width: int, height: int) -> bool:
    with av.open(io.BytesIO(), "w", format="mp4") as out:
        try:
            _opened(out, recipe, rate, width, height)
        except (FFmpegError, ValueError):
            return False
    return True


def _opened(out: av.container.OutputContainer, recipe: Recipe, rate: Fraction, width: int, height: int) -> av.VideoStream:
    stream = out.add_stream(recipe.encoder.value, rate=rate, options=_options(recipe))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = 1 / rate
    context.colorspace, context.color_range = _BT601, _LIMITED
    context.gop_size, context.max_b_frames = recipe.keyframe_every, 0
    context.thread_count = 1
    context.flags |= Flags.bitexact
    context.open()
    return stream


def _options(recipe: Recipe) -> dict[str, str]:
    """Key frames at fixed distances, none at cuts: every clip costs the same. No B-frames: frames come out as they go in."""
    every = recipe.keyframe_every
    match recipe.encoder:
        case Encoder.X264:
            exact = "cpu-independent=1:sync-lookahead=0:scenecut=0:open-gop=0"
            return {"preset": "veryfast", "crf": str(recipe.crf), "x264-params": f"{exact}:keyint={every}:min-keyint={every}"}
        case Encoder.X265:
            exact = "pools=none:frame-threads=1:wpp=0:scenecut=0:open-gop=0:log-level=error"
            return {"preset": "veryfast", "crf": str(recipe.crf), "x265-params": f"{exact}:keyint={every}:min-keyint={every}"}
        case Encoder.H264_NVENC | Encoder.HEVC_NVENC:
            return {"preset": "p4", "rc": "vbr", "cq": str(recipe.crf), "forced-idr": "1", "no-scenecut": "1"}
