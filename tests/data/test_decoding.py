"""Both decoders by one contract, on clips of every codec that can be made here, with drawn content."""

import gc
import hashlib
import importlib.util
import io
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace
from PIL import Image

from megatron_mplug2.config.data import DataConfig, DecoderChoice, ResizeFilter
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.augment import Operation, OperationName
from megatron_mplug2.data.decoding.choice import open_decoder
from megatron_mplug2.data.decoding.contract import FULL_VIEW, ClipRequest, Decoded, Decoder, PictureRequest, Transform, View
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.plain import CPU_CODECS, has_own_decoder, is_plain_clip, plain_picture_size
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.video_file import VideoFile
from megatron_mplug2.errors import UserError
from tests.data.clips import COLORS, Drawn, color_error, drawn_frame, numbers_of
from tests.data.media import Pixels, encoded, gradient
from tests.data.remuxing import remuxed
from tests.data.test_decode import pixels_of

DALI, PYAV = DaliDecoder(gpu=False), PyavDecoder()
DECODERS = pytest.mark.parametrize("decoder", [PYAV, DALI], ids=["pyav", "dali"])
QUIET = {"x265-params": "log-level=none"}
CORNER = View(area=0.4, x=0.2, y=0.7, flip=True)

CODINGS = [
    Drawn(),
    Drawn(form="matroska"),
    Drawn(form="mpegts"),
    Drawn(encoder="libx265", options=QUIET),
    Drawn(encoder="libvpx", form="webm"),
    Drawn(encoder="libvpx-vp9", form="webm"),
    Drawn(encoder="libvpx-vp9"),
    Drawn(encoder="libsvtav1"),
    Drawn(encoder="mpeg4"),
    Drawn(encoder="mpeg4", form="avi"),
    Drawn(encoder="mpeg2video", form="mpegts"),
    Drawn(encoder="mjpeg", form="mov", pix_fmt="yuvj420p", full_range=True),
]
CODED = pytest.mark.parametrize("drawn", CODINGS, ids=lambda drawn: f"{drawn.encoder}-{drawn.form}")


def clip_request(data: bytes, *, frames: int = 6, shares: Sequence[float] | None = None, **transform: object) -> ClipRequest:
    settings = Transform(resolution=48)
    return ClipRequest(data=data, frames=frames, segment_shares=shares, transform=replace(settings, **transform))  # type: ignore[arg-type]


def shown(answer: Decoded) -> Pixels:
    """[T, R, R, 3] of a good answer."""
    assert isinstance(answer, torch.Tensor), answer
    return pixels_of(answer)


@CODED
def test_decoders_agree(drawn: Drawn) -> None:
    """Indices exactly. Pixels: where DALI decodes itself it interpolates colour between its samples, which lie two pixels apart, where
    PyAV repeats them, so the edges of colours differ by up to half a step for a pixel or two; on the whole by less than one level in 85."""
    data = drawn.encoded()
    with VideoFile(data) as video:
        assert is_plain_clip(video, CPU_CODECS) == (drawn.encoder in ("libvpx", "libvpx-vp9", "mjpeg"))
    requests = [clip_request(data), clip_request(data, view=CORNER), clip_request(data, shares=[0.9, 0.1, 0.5, 0.3, 0.7, 0.2])]
    for ours, theirs in zip(PYAV.clips(requests), DALI.clips(requests), strict=True):
        difference = np.abs(shown(ours).astype(int) - shown(theirs).astype(int))
        assert difference.mean() < 3 and np.percentile(difference, 90) < 12 and difference.max() < 64
    whole = clip_request(data, frames=12)
    for decoder in (PYAV, DALI):
        frames = shown(decoder.clips([whole])[0])
        assert numbers_of(frames) == list(range(12))
        assert max(map(color_error, frames)) < 5


ODD = {
    "one frame": Drawn(frames=1),
    "10 bit": Drawn(pix_fmt="yuv420p10le"),
    "odd size": Drawn(encoder="libvpx-vp9", form="webm", width=97, height=65),
    "4:4:4": Drawn(pix_fmt="yuv444p"),
    "late start": Drawn(times=tuple(range(50, 62))),
    "variable rate": Drawn(times=(3, 4, 5, 9, 10, 17, 18, 19, 30, 31, 40, 41)),
    "variable rate, vp9": Drawn(encoder="libvpx-vp9", form="webm", times=(3, 4, 5, 9, 10, 17, 18, 19, 30, 31, 40, 41)),
    "interlaced": Drawn(encoder="mpeg2video", form="mpegts", options={"flags": "+ilme+ildct"}),
    "bt709": Drawn(matrix=Colorspace.ITU709),
    "bt709, vp9": Drawn(encoder="libvpx-vp9", form="webm", matrix=Colorspace.ITU709),
    "full range": Drawn(full_range=True, pix_fmt="yuvj420p"),
    "full range bt709, vp9": Drawn(encoder="libvpx-vp9", form="webm", matrix=Colorspace.ITU709, full_range=True),
    "undeclared": Drawn(declared=False),
}


@DECODERS
@pytest.mark.parametrize("kind", ODD)
def test_odd_clips_are_decoded_right(kind: str, decoder: Decoder) -> None:
    drawn = ODD[kind]
    frames = shown(decoder.clips([clip_request(drawn.encoded(), frames=drawn.frames)])[0])
    assert numbers_of(frames) == list(range(drawn.frames))
    assert max(map(color_error, frames)) < 6


@DECODERS
def test_clips_are_turned_upright(decoder: Decoder) -> None:
    upper_left, upper_right, lower_left, lower_right = COLORS
    turned: dict[float, tuple[tuple[int, int, int], ...]] = {
        90: (upper_right, lower_right, upper_left, lower_left),
        180: (lower_right, lower_left, upper_right, upper_left),
        270: (lower_left, upper_left, lower_right, upper_right),
    }
    turned |= {89.999: turned[90]}
    for degrees, colors in turned.items():
        frames = shown(decoder.clips([clip_request(Drawn(turned=degrees, frames=2).encoded(), frames=2)])[0])
        assert max(color_error(frame, colors) for frame in frames) < 6, degrees


@DECODERS
@pytest.mark.parametrize("turned", [90, 180, 270])
@pytest.mark.parametrize("size", [(64, 1), (1, 64), (1, 1)])
def test_clips_of_one_row_or_column_are_turned(size: tuple[int, int], turned: int, decoder: Decoder) -> None:
    width, height = size
    data = Drawn(encoder="qtrle", form="mov", pix_fmt="rgb24", width=width, height=height, frames=2, turned=turned).encoded()
    with VideoFile(data) as video:
        (_, picture), *_ = video.pictures([0, 1])
    assert picture.shape == ((height, width, 3) if turned == 180 else (width, height, 3))
    assert shown(decoder.clips([clip_request(data, frames=2)])[0]).shape == (2, 48, 48, 3)


@DECODERS
def test_a_gif_is_a_clip(decoder: Decoder) -> None:
    drawn = [Image.fromarray(drawn_frame(number, 96, 64)) for number in range(6)]
    data = encoded(np.asarray(drawn[0]), "GIF", save_all=True, append_images=drawn[1:], duration=120)
    assert numbers_of(shown(decoder.clips([clip_request(data)])[0])) == list(range(6))


@DECODERS
def test_frames_of_two_sizes(decoder: Decoder) -> None:
    first, second = Drawn(form="mpegts", frames=8), Drawn(width=128, height=96, frames=8)
    data = first.encoded() + remuxed(second.encoded(), form="mpegts", later_s=Fraction(1))
    frames = shown(decoder.clips([clip_request(data, frames=16)])[0])
    assert numbers_of(frames) == [*range(8), *range(8)] and max(map(color_error, frames)) < 6


@DECODERS
@pytest.mark.parametrize("form", ["mp4", "avi"])
def test_spans(decoder: Decoder, form: str) -> None:
    """Times count from the first frame, wherever the container begins."""
    data = Drawn(form=form, times=tuple(range(40, 52)) if form == "mp4" else ()).encoded()

    def numbers(start: float, end: float, frames: int) -> list[int]:
        return numbers_of(shown(decoder.clips([replace(clip_request(data, frames=frames), span_s=(start, end))])[0]))

    assert numbers(0.25, 0.75, 4) == [2, 3, 4, 5]
    assert numbers(0.0, 1.5, 4) == [1, 4, 7, 10]
    assert numbers(0.3, 0.31, 2) == [2, 2]  # none comes on in it: the one that is shown
    assert numbers(9.0, 12.0, 2) == [11, 11]
    shares = replace(clip_request(data, frames=2, shares=[0.99, 0.0]), span_s=(0.5, 1.5))
    assert numbers_of(shown(decoder.clips([shares])[0])) == [6, 8]  # of [4, 8) without its last, and of [8, 12)


def test_released_test_transform() -> None:
    """The reference: the pixel at floor(place * size / resolution), in whole numbers."""
    for width, height, side in ((96, 64, 48), (90, 70, 32), (40, 36, 56)):
        data = Drawn(width=width, height=height).encoded()
        with VideoFile(data) as video:
            frames = np.stack([np.asarray(picture) for _, picture in video.pictures(range(12))])
        rows, columns = (np.arange(side) * size // side for size in (height, width))
        expected = frames[:, rows[:, None], columns[None, :]]
        request = clip_request(data, frames=12, resize=ResizeFilter.NEAREST, resolution=side)
        for decoder in (PYAV, DALI):
            np.testing.assert_array_equal(shown(decoder.clips([request])[0]), expected)


@DECODERS
def test_one_bad_sample_spoils_no_other(decoder: Decoder) -> None:
    good = Drawn(encoder="mjpeg", form="mov", pix_fmt="yuvj420p").encoded()
    with av.open(io.BytesIO(good), "r") as container:
        entry = container.streams.video[0].index_entries[3]
        begin, size = entry.pos, entry.size
    spoilt = good[: begin + 12] + bytes(size - 12) + good[begin + size :]  # found by the decoder only, in the middle of a batch
    clips = [good, b"", good, b"a text", spoilt, encoded(gradient(), "PNG"), good]
    answers = decoder.clips([clip_request(data, frames=12) for data in clips])
    assert [isinstance(answer, BadMedia) for answer in answers] == [False, True, False, True, True, True, False]
    assert str(answers[4]) == "frame 3 is damaged or missing"
    assert torch.equal(*(torch.as_tensor(shown(answers[place])) for place in (0, 6)))

    plain = encoded(gradient(96, 128), "JPEG", quality=95)
    broken = plain[:20] + b"\xff\xc0\x00\x02" + plain[24:]
    pictures = [plain, plain[: len(plain) // 2], b"", encoded(gradient(96, 128), "PNG"), broken, plain]
    answered = decoder.pictures([PictureRequest(data=data, transform=Transform(resolution=32)) for data in pictures])
    assert [isinstance(answer, BadMedia) for answer in answered] == [False, True, True, False, True, False]
    expected = np.asarray(Image.fromarray(gradient(96, 128)).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    for place in (0, 3, 5):
        assert np.abs(shown(answered[place])[0] - expected).max() <= 6  # JPEG's own loss


def test_what_dali_shows_otherwise_is_not_plain() -> None:
    pixels = gradient(96, 128)
    plain = encoded(pixels, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = encoded(np.asarray(Image.fromarray(pixels).convert("L")), "JPEG")
    for data in (plain, grey, encoded(pixels, "JPEG", progressive=True)):
        assert plain_picture_size(data) == (128, 96)
    cmyk = encoded(np.zeros((16, 16, 4), np.uint8), "TIFF")
    for data in (plain[:-2], encoded(pixels, "JPEG", exif=exif), encoded(pixels, "JPEG", keep_rgb=True), encoded(pixels, "PNG"), cmyk, b""):
        assert not plain_picture_size(data)


def test_no_two_heights_share_a_decoder_on_a_gpu() -> None:
    """Where one is shown in the rows that another is coded in."""
    heights = [height for height in range(2, 2162, 2) if has_own_decoder(height)]
    assert {240, 256, 270, 336, 360, 480, 540, 576, 720, 1080, 2160} <= set(heights)
    assert not {height + -height % 16 for height in heights if height % 16} & set(heights)


def digests(decoder: Decoder, requests: Sequence[ClipRequest]) -> list[str]:
    return [hashlib.sha256(shown(answer).tobytes()).hexdigest() for answer in decoder.clips(requests)]


@DECODERS
def test_an_answer_depends_on_its_request_alone(decoder: Decoder) -> None:
    """Not on the order, the split into batches, what was decoded before, or the process; one that is forked after a first use too."""
    operations = (
        Operation(name=OperationName.ROTATE, magnitude=5, reverse=True),
        Operation(name=OperationName.EQUALIZE, magnitude=5, reverse=False),
    )
    requests = [
        clip_request(coding.encoded(), shares=[share] * 6, view=view, operations=operations)
        for coding in (Drawn(), Drawn(encoder="libvpx-vp9", form="webm"), Drawn(encoder="mjpeg", form="mov", pix_fmt="yuvj420p"))
        for share, view in ((0.1, FULL_VIEW), (0.6, CORNER), (0.9, CORNER))
    ] * 2  # 18, more than one of DALI's batches
    together = digests(decoder, requests)
    assert digests(decoder, requests[::-1])[::-1] == together
    assert [digests(decoder, [request])[0] for request in requests[:9]] == together[:9] == together[9:]
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    forked = fork.Process(target=lambda: theirs.send(digests(decoder, requests[:9])), daemon=True)
    forked.start()
    try:
        assert ours.poll(120) and ours.recv() == together[:9]
    finally:
        forked.kill()
        forked.join(60)


def test_a_forked_process_outlives_its_parents_graphs() -> None:
    """DALI's pipelines end a process that frees those of its parent."""
    decoder = DaliDecoder(gpu=False)
    assert digests(decoder, [clip_request(Drawn().encoded())])
    held = [decoder]
    del decoder

    def let_go() -> None:
        held.clear()
        gc.collect()

    forked = multiprocessing.get_context("fork").Process(target=let_go, daemon=True)
    forked.start()
    forked.join(60)
    assert forked.exitcode == 0


def test_threads_that_prepare_for_a_gpu_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVDEC would get PyAV decodes here."""
    batches: list[int] = []

    def run(_: DaliDecoder, batch: Any) -> Any:
        batches.append(len(batch))
        return [(work, PYAV.clips([work.request])[0]) for work in batch]

    monkeypatch.setattr(DaliDecoder, "_run", run)
    clips = [Drawn().encoded(), b"no clip", Drawn(encoder="mjpeg", form="mov", pix_fmt="yuvj420p").encoded()]
    requests = [clip_request(clips[number % 3], shares=[number / 60] * 6) for number in range(60)]
    answers = DaliDecoder(gpu=True).clips(requests)
    assert [isinstance(answer, BadMedia) for answer in answers] == [number % 3 == 1 for number in range(60)]
    sound = [number for number in range(60) if number % 3 != 1]
    wanted = PYAV.clips([requests[number] for number in sound])
    assert all(np.array_equal(shown(answers[number]), shown(answer)) for number, answer in zip(sound, wanted, strict=True))
    assert batches == [16, 16, 4, 4]  # H.264 and what PyAV decoded, each in batches of its own


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_batch_holds_what_dali_could_not_decode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = DaliDecoder(gpu=True)
    run = DaliDecoder._run
    monkeypatch.setattr(DaliDecoder, "_run", lambda self, works: [*run(self, works[:1]), *((work, None) for work in works[1:])])
    clips = decoder.clips([clip_request(Drawn().encoded())] * 2)
    nearest = decoder.clips([clip_request(Drawn().encoded(), resize=ResizeFilter.NEAREST)])
    assert all(isinstance(answer, torch.Tensor) and answer.is_cuda for answer in (*clips, *nearest))


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(decoder: DecoderChoice) -> Decoder:
        return open_decoder(DataConfig.model_validate({"vocab": "vocab.txt", "decoder": decoder, "workers": 0}))

    assert isinstance(opened(DecoderChoice.DALI), DaliDecoder)
    assert isinstance(opened(DecoderChoice.PYAV), PyavDecoder)
    if not torch.cuda.is_available():
        assert isinstance(opened(DecoderChoice.AUTO), PyavDecoder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data.decoder=dali needs NVIDIA DALI: pip install .*, or set data.decoder=pyav"):
        opened(DecoderChoice.DALI)
