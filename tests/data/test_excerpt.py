"""What of a clip its wanted frames are decoded from."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from megatron_mplug2.data.decoding.contract import ClipRequest, Decoded, Transform
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.excerpt import excerpt
from megatron_mplug2.data.decoding.plain import GPU_CODECS, is_plain_clip
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.video_file import VideoFile
from tests.data.clips import Drawn
from tests.data.test_decode import pixels_of

FRAMES = 100
WANTED = [3, 20, 36, 41, 41, 60, 77, 90, 97]
CLOSED, OPEN = ({"x265-params": f"log-level=none:keyint=8:min-keyint=8:scenecut=0:open-gop={number}"} for number in (0, 1))
WITHOUT_B = Drawn(frames=FRAMES, gop=8, options={"bf": "0"})
CODINGS = {
    "h264": Drawn(frames=FRAMES, gop=8),
    "h264 without B-frames": WITHOUT_B,
    "h264 in matroska": Drawn(frames=FRAMES, gop=8, form="matroska", options={"bf": "0"}),
    "h265": Drawn(encoder="libx265", frames=FRAMES, options=CLOSED),
    "vp8": Drawn(encoder="libvpx", form="webm", frames=FRAMES, gop=8),
    "vp9": Drawn(encoder="libvpx-vp9", form="webm", frames=FRAMES, gop=8),
    "vp9 in mp4": Drawn(encoder="libvpx-vp9", frames=FRAMES, gop=8),
    "mjpeg": Drawn(encoder="mjpeg", form="mov", pix_fmt="yuvj420p", full_range=True, frames=FRAMES),
}
ON_CPU = ["vp8", "vp9", "vp9 in mp4", "mjpeg"]
ON_GPU = [name for name in CODINGS if name != "mjpeg"]


@pytest.mark.parametrize("name", CODINGS)
def test_an_excerpt_shows_the_wanted_frames_and_is_much_shorter(name: str) -> None:
    with VideoFile(CODINGS[name].encoded()) as video:
        part = excerpt(video, WANTED)
        assert part is not None
        frames = dict(video.pictures(WANTED))
        plain = is_plain_clip(video, GPU_CODECS | {"mjpeg"})
    with VideoFile(part.data) as video:
        shown = dict(video.pictures(part.frames))
        assert plain and is_plain_clip(video, GPU_CODECS | {"mjpeg"})
        assert video.whole and video.timeline.times[0] == 0 and len(video.timeline.times) <= 40
    assert all(np.array_equal(frames[theirs], shown[ours]) for theirs, ours in zip(WANTED, part.frames, strict=True))


def test_a_clip_stays_whole_where_an_excerpt_would_save_little_or_lack_frames() -> None:
    with VideoFile(WITHOUT_B.encoded()) as video:
        assert excerpt(video, range(0, FRAMES, 2)) is None
        assert excerpt(video, [0, 5]) is None
        assert excerpt(video, [FRAMES - 1, FRAMES]) is None
        assert excerpt(video, [FRAMES - 1]) is not None
    with VideoFile(Drawn(encoder="libx265", frames=FRAMES, options=OPEN).encoded()) as video:
        assert excerpt(video, WANTED) is None


def _answers(gpu: bool, clips: Sequence[bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Decoded], list[Decoded]]:
    """DALI's, which PyAV does not help, and PyAV's."""
    shares = [0.1, 0.9, 0.3, 0.5, 0.2, 0.8]
    requests = [ClipRequest(data=clip, frames=6, segment_shares=shares, transform=Transform(resolution=48)) for clip in clips]
    theirs = PyavDecoder().clips(requests)
    monkeypatch.setattr(PyavDecoder, "clips", lambda *_: pytest.fail("decoded with PyAV"))
    return DaliDecoder(gpu=gpu).clips(requests), theirs


def _agree(ours: Sequence[Decoded], theirs: Sequence[Decoded]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert isinstance(our, torch.Tensor) and isinstance(their, torch.Tensor)
        difference = np.abs(pixels_of(our.cpu()).astype(int) - pixels_of(their).astype(int))
        assert difference.mean() < 3 and np.percentile(difference, 90) < 12 and difference.max() < 64


def test_dali_shows_the_frames_of_an_excerpt(monkeypatch: pytest.MonkeyPatch) -> None:
    _agree(*_answers(False, [CODINGS[name].encoded() for name in ON_CPU], monkeypatch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nvdec_shows_the_frames_of_an_excerpt(monkeypatch: pytest.MonkeyPatch) -> None:
    _agree(*_answers(True, [CODINGS[name].encoded() for name in ON_GPU], monkeypatch))
