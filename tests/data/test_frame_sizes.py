"""Clips whose frames are not all of the size or format that the container tells: as screen shares and joined clips are."""

import struct
from dataclasses import replace

import pytest
import torch
from av.video.reformatter import Colorspace

from megatron_mplug2.data.decoding.contract import FULL_VIEW, ClipRequest, Decoder, Transform, View
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.plain import CPU_CODECS, GPU_CODECS, is_plain_clip
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.frame_headers import UNKNOWN, forms_of
from megatron_mplug2.data.video_file import VideoFile
from tests.data.clips import Drawn, color_error, numbers_of
from tests.data.media import Pixels
from tests.data.remuxing import joined, remuxed, side_by_side
from tests.data.test_decode import pixels_of

DECODERS = pytest.mark.parametrize("decoder", [PyavDecoder(), DaliDecoder(gpu=False)], ids=["pyav", "dali"])
VP8 = Drawn(encoder="libvpx", form="webm", frames=8, options={"auto-alt-ref": "0", "lag-in-frames": "0"})
VP9 = Drawn(encoder="libvpx-vp9", form="webm", frames=8, options={"lag-in-frames": "0"})
MJPEG = Drawn(encoder="mjpeg", form="mov", frames=8, pix_fmt="yuvj420p", full_range=True)
H264 = Drawn(frames=8, options={"bf": "0", "x264-params": "repeat-headers=1"})
HEVC = Drawn(encoder="libx265", frames=8, options={"x265-params": "bframes=0:repeat-headers=1:log-level=none"})
CODED = pytest.mark.parametrize("drawn", [VP8, VP9, replace(VP9, form="mp4"), MJPEG], ids=lambda drawn: f"{drawn.encoder}-{drawn.form}")


def shown(decoder: Decoder, data: bytes, frames: int, view: View = FULL_VIEW) -> Pixels:
    request = ClipRequest(data=data, frames=frames, segment_shares=None, transform=Transform(resolution=48, view=view))
    (answer,) = decoder.clips([request])
    assert isinstance(answer, torch.Tensor), answer
    return pixels_of(answer)


def is_plain(data: bytes) -> bool:
    with VideoFile(data) as video:
        return is_plain_clip(video, CPU_CODECS | GPU_CODECS)


@DECODERS
@CODED
@pytest.mark.parametrize("size", [(64, 48), (128, 96)])
def test_frames_that_become_smaller_or_larger(drawn: Drawn, size: tuple[int, int], decoder: Decoder) -> None:
    second = replace(drawn, width=size[0], height=size[1])
    frames = shown(decoder, joined([drawn.encoded(), second.encoded()], form=drawn.form), 16)
    assert numbers_of(frames) == [*range(8), *range(8)] and max(map(color_error, frames)) < 6


@DECODERS
@CODED
@pytest.mark.parametrize("size", [(64, 48), (128, 80)])
def test_a_container_that_tells_another_size(drawn: Drawn, size: tuple[int, int], decoder: Decoder) -> None:
    """DALI makes room for what the container tells, in memory that holds what lay there before."""
    data = told_to_be(drawn.encoded(), drawn.form, size)
    frames = shown(decoder, data, 8)
    assert numbers_of(frames) == [*range(8)] and max(map(color_error, frames)) < 6
    corner = shown(decoder, data, 8, View(area=0.25, x=1.0, y=1.0, flip=False))
    assert abs(corner[:, -8:, -8:].reshape(-1, 3).mean(0) - (210, 200, 60)).max() < 6


def told_to_be(data: bytes, form: str, size: tuple[int, int]) -> bytes:
    if form == "webm":  # PixelWidth and PixelHeight, a byte each
        place = data.index(b"\xb0\x81\x60\xba\x81\x40")
        return data[:place] + bytes([0xB0, 0x81, size[0], 0xBA, 0x81, size[1]]) + data[place + 6 :]
    place = data.index(struct.pack(">HH", 96, 64), data.index(b"stsd"))
    return data[:place] + struct.pack(">HH", *size) + data[place + 4 :]


@DECODERS
@pytest.mark.parametrize("shown_one", [1, 0, -1])
def test_another_stream_beside(shown_one: int, decoder: Decoder) -> None:
    """That which the container says is shown, or else the larger one; DALI takes the first, or mixes them."""
    other = replace(VP9, width=64, height=48, frames=1)
    for place in (0, 1):
        parts = [other.encoded(), VP9.encoded()] if place else [VP9.encoded(), other.encoded()]
        data = side_by_side(parts, form="matroska", shown=shown_one if shown_one < 0 else place if shown_one else 1 - place)
        assert not is_plain(data)
        assert numbers_of(shown(decoder, data, 8)) == ([0] * 8 if shown_one == 0 else [*range(8)])


def test_colours_that_change() -> None:
    assert is_plain(joined([VP9.encoded(), VP9.encoded()], form="webm"))
    assert not is_plain(joined([VP9.encoded(), replace(VP9, matrix=Colorspace.ITU709).encoded()], form="webm"))


@pytest.mark.parametrize("form", ["mp4", "matroska"])
@pytest.mark.parametrize("drawn", [H264, HEVC], ids=["h264", "hevc"])
def test_parameters_between_the_frames(drawn: Drawn, form: str) -> None:
    """Repeated ones change nothing, others do; what `ffmpeg -c copy` makes of a transport stream has them there, too."""
    other = replace(drawn, width=64, height=48)
    assert is_plain(joined([drawn.encoded(), drawn.encoded()], form=form))
    assert not is_plain(joined([drawn.encoded(), other.encoded()], form=form))
    assert is_plain(remuxed(replace(drawn, form="mpegts").encoded(), form=form))


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_frames_that_are_shown_later(form: str) -> None:
    """VP9 packs a frame that is never shown with another."""
    assert is_plain(
        Drawn(encoder="libvpx-vp9", form=form, frames=40, gop=20, options={"lag-in-frames": "16", "auto-alt-ref": "1"}).encoded()
    )


def naming_a_size(frame: bytes, size: tuple[int, int]) -> bytes:
    """A predicted VP9 frame whose header names a size, instead of taking over that of its first reference (VP9 bitstream specification,
    7.2.5)."""
    bits = "".join(f"{one:08b}" for one in frame)
    place = 8 + (0 if bits[7] == "1" else 2) + 8 + 3 * 4
    assert bits[5:7] == "11" and bits[place] == "1", "predicted, shown, and of the size of its first reference"
    changed = bits[:place] + "000" + "".join(f"{side - 1:016b}" for side in size) + bits[place + 1 :] + "000000"
    return int(changed, 2).to_bytes(len(changed) // 8)


def test_vp9_may_change_its_size_without_a_key_frame() -> None:
    """As encoders of calls do."""
    for size in ((96, 64), (64, 48)):

        def changed(number: int, frame: bytes, size: tuple[int, int] = size) -> bytes:
            return naming_a_size(frame, size) if number == 3 else frame

        assert is_plain(remuxed(VP9.encoded(), form="webm", changed=changed)) == (size == (96, 64))


@pytest.mark.parametrize("codec", ["vp8", "vp9", "mjpeg", "h264", "hevc"])
@pytest.mark.parametrize("frame", [b"", b"\0", b"\xff\xd8\xff", bytes(40), b"\xff" * 40])
def test_headers_of_nothing(codec: str, frame: bytes) -> None:
    """Never an error, and never a size that is none. Any VP8 frame of which the first bit is set is predicted, and names nothing."""
    predicted = codec == "vp8" and frame[:1] == b"\xff"
    assert [*forms_of(codec, memoryview(frame), b"")] == ([] if predicted else [UNKNOWN])
