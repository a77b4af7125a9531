"""Facts of real pictures and clips."""

import io

import numpy as np
import pytest
from PIL import Image

from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decode import decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.probing import clip_facts, picture_facts
from tests.data.media import encoded, gradient, grey_clip
from tests.data.test_decode import LEVELS, levels_of


@pytest.mark.parametrize("form", ["mp4", "mov", "matroska", "flv", "mpegts", "mpeg", "avi", "asf"])
def test_facts_and_frames_do_not_depend_on_the_container(form: str) -> None:
    data = grey_clip(LEVELS, form=form, keyframe_every=6)
    assert clip_facts(data) == MediaFacts(codec="h264", width=64, height=48, frames=24, fps=8.0, duration_s=3.0)
    assert levels_of(decode_video(data, 4, 16, FULL_VIEW, [0.9, 0.1, 0.5, 0.7])) == [4, 6, 14, 21]


def test_variable_rate_and_a_late_start() -> None:
    steady = grey_clip(LEVELS[:6], times=[40, 41, 42, 43, 44, 45])
    assert clip_facts(steady) == MediaFacts(codec="h264", width=64, height=48, frames=6, fps=8.0, duration_s=0.75)
    uneven = clip_facts(grey_clip(LEVELS[:6], times=[40, 41, 43, 44, 48, 49]))
    assert (uneven.variable_rate, uneven.frames) == (True, 6)
    assert uneven.duration_s == pytest.approx(10 / 8) and uneven.fps == pytest.approx(6 / (10 / 8))


@pytest.mark.parametrize("turned", [0, 90, 180, 270, 89.999, -89.999])
def test_a_turned_clip_is_measured_upright(turned: float) -> None:
    facts = clip_facts(grey_clip(LEVELS[:3], turned=turned))
    assert (facts.width, facts.height) == ((48, 64) if round(turned) in (90, 270, -90) else (64, 48))


def test_pictures() -> None:
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        assert picture_facts(encoded(gradient(), form)) == MediaFacts(codec=form.lower(), width=64, height=48)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture_facts(encoded(gradient(), "JPEG", exif=exif))
    assert (lying.width, lying.height) == (48, 64)
    file = io.BytesIO()
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(file, "PPM")
    assert picture_facts(file.getvalue()).codec == "ppm"


@pytest.mark.parametrize("data", [b"", b"neither"])
def test_what_is_neither(data: bytes) -> None:
    with pytest.raises(BadMedia):
        picture_facts(data)
    with pytest.raises(BadMedia):
        clip_facts(data)
