"""Files made to break a reader: each is bad media with a reason, or a picture, within bounds of memory and time."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from megatron_mplug2.data.bad_media import MAX_PIXELS, BadMedia
from megatron_mplug2.data.decoding.contract import ClipRequest, Decoded, PictureRequest, Transform
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.video_file import MAX_RUN, VideoFile
from tests.data.clips import Drawn, numbers_of
from tests.data.media import encoded, gradient
from tests.data.remuxing import remuxed
from tests.data.test_decode import pixels_of

DECODERS = (PyavDecoder(), DaliDecoder(gpu=False))
TINY = Transform(resolution=16)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(side: int, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_header(side: int) -> bytes:
    """A picture that says it is `side` x `side`, with the end marker of a whole one."""
    data = bytearray(encoded(gradient(), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def webp_header(side: int) -> bytes:
    data = bytearray(encoded(gradient(), "WEBP"))
    place = data.index(b"\x9d\x01\x2a")
    data[place + 3 : place + 7] = struct.pack("<HH", side, side)
    return bytes(data)


PICTURES = {
    "60,000 x 60,000, header only": png(60_000),
    "a bomb": png(60_000, zlib.compress(bytes(10_000_000))),
    "just over the limit": png(int(MAX_PIXELS**0.5) + 1),
    "a JPEG that says 60,000 x 60,000": jpeg_header(60_000),
    "a WebP that says 16,000 x 16,000": webp_header(16_000),
    "a text": b"GIF89a, but a text",
    "a clip": Drawn(frames=2).encoded(),
    "empty": b"",
}


def reason(answer: Decoded) -> str:
    assert isinstance(answer, BadMedia)
    return str(answer)


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(kind: str) -> None:
    for decoder in DECODERS:
        assert reason(decoder.pictures([PictureRequest(data=PICTURES[kind], transform=TINY)])[0])


def silent_clip() -> bytes:
    return Drawn(frames=2).encoded().replace(b"vide", b"soun")


def endless_clip() -> bytes:
    """One frame that is shown for an hour, then another."""
    return Drawn(frames=2, times=(0, 8 * 3600)).encoded()


def listing(frames: int) -> bytes:
    """Two frames; the table (ISO 14496-12, 8.7.3.2) says there are so many, of one byte each, and the one of their times agrees."""
    data = bytearray(Drawn(frames=2).encoded())
    sizes, times = data.index(b"stsz"), data.index(b"stts")
    data[sizes + 8 : sizes + 16] = struct.pack(">II", 1, frames)
    data[times + 12 : times + 16] = struct.pack(">I", frames)
    chunks = data.index(b"stsc")
    data[chunks + 16 : chunks + 20] = struct.pack(">I", frames)
    return bytes(data)


def in_fragments(frames: int) -> bytes:
    """Twelve frames in three fragments; the runs (ISO 14496-12, 8.8.8.2) of two say that they have so many together, all of one size."""
    data = bytearray(remuxed(Drawn(options={"bf": "0"}).encoded(), form="mp4", options={"movflags": "frag_keyframe+empty_moov"}))
    place = 0
    for _ in range(2):
        place = data.index(b"trun", place + 4)
        data[place + 4 : place + 12] = struct.pack(">II", 1, frames // 2)  # the flag: no more than where the first one lies
    return bytes(data)


def run_elsewhere(holder: bytes, frames: int) -> bytes:
    """A run of so many frames between two fragments, in an outermost box of this name; FFmpeg takes it to the fragment before."""
    data = remuxed(Drawn(options={"bf": "0"}).encoded(), form="mp4", options={"movflags": "frag_keyframe+empty_moov"})
    place = data.index(b"moof", data.index(b"moof") + 4) - 4
    run = struct.pack(">I4sIII", 20, b"trun", 1, frames, 0)
    return data[:place] + (struct.pack(">I4s", 28, holder) + run if holder else run) + data[place:]


CLIPS = {
    "fragments of more frames than bytes": in_fragments(60_000_000),
    "more frames than bytes": listing(60_000_000),
    "empty": b"",
    "a text": b"no clip at all",
    "a playlist": b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n",
    "a list of files": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a session description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a picture": encoded(gradient(), "JPEG"),
    "the head of a clip": Drawn().encoded()[:200],
    "no video stream": silent_clip(),
}


@pytest.mark.parametrize("holder", [b"", b"minf", b"dinf", b"ilst", b"tref", b"sinf", b"schi", b"wave"])
def test_runs_outside_of_fragments(holder: bytes) -> None:
    with pytest.raises(BadMedia, match="lists more frames"):
        VideoFile(run_elsewhere(holder, 5_000_000))


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}], ids=["plain", "fragments"])
@pytest.mark.parametrize("word", ["Elephant trunk", "strung out", "truncated"])
def test_words_that_hold_the_name_of_a_table(word: str, options: dict[str, str]) -> None:
    text = f"{word}: at dawn and at dusk"
    data = remuxed(Drawn().encoded(), form="mp4", options=options, texts={"title": text, "comment": text, "lyrics": text})
    assert data.count(text.encode()) == 3
    with VideoFile(data) as clip:
        assert clip.facts.frames == 12


@pytest.mark.parametrize("kind", CLIPS)
def test_clips(kind: str) -> None:
    for decoder in DECODERS:
        assert reason(decoder.clips([ClipRequest(data=CLIPS[kind], frames=2, segment_shares=None, transform=TINY)])[0])


def test_an_hour_long_clip_of_two_frames() -> None:
    for decoder in DECODERS:
        answer = decoder.clips([ClipRequest(data=endless_clip(), frames=4, segment_shares=None, transform=TINY)])[0]
        assert isinstance(answer, torch.Tensor) and numbers_of(pixels_of(answer)) == [0, 1, 1, 1]


def test_a_run_without_key_frames_is_not_followed_for_ever() -> None:
    data = Drawn(frames=MAX_RUN + 100, gop=1_000_000, width=32, height=32, options={"preset": "ultrafast", "sc_threshold": "0"}).encoded()
    late = ClipRequest(data=data, frames=1, segment_shares=[0.999], transform=TINY)
    assert "frames have to be decoded" in reason(PyavDecoder().clips([late])[0])


def test_content_decides_not_the_name_and_animations_show_their_first_frame() -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (40, 200)]
    for form in ("WEBP", "GIF", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=100, **({"lossless": True} if form == "WEBP" else {}))
        for decoder in DECODERS:
            answer = decoder.pictures([PictureRequest(data=file.getvalue(), transform=TINY)])[0]
            assert isinstance(answer, torch.Tensor) and abs(pixels_of(answer).astype(int) - 40).max() <= 2, form


_BOUNDED = """
from pathlib import Path
from megatron_mplug2.data.decoding.contract import ClipRequest, PictureRequest, Transform
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from tests.data.test_hostile_media import CLIPS, PICTURES
def most():  # of this program alone: getrusage counts what its parent had before it
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = most()
for data in PICTURES.values():
    PyavDecoder().pictures([PictureRequest(data=data, transform=Transform(resolution=16))])
for data in CLIPS.values():
    PyavDecoder().clips([ClipRequest(data=data, frames=2, segment_shares=None, transform=Transform(resolution=16))])
print(most() - before)
"""


def test_memory_is_bounded() -> None:
    """In kB: whole, the largest of them would take 10 GB."""
    root = Path(__file__).parents[2]
    grown = subprocess.run([sys.executable, "-c", _BOUNDED], cwd=root, capture_output=True, text=True, timeout=120, check=True)
    assert int(grown.stdout) < 200_000


def test_starting_does_not_import_dali() -> None:
    root = Path(__file__).parents[2]
    code = (
        "import sys, megatron_mplug2.data.loader, megatron_mplug2.data.evaluation_batches; "
        "from megatron_mplug2.data.decoding.dali import DaliDecoder; DaliDecoder(gpu=False); print('nvidia.dali' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "False"
