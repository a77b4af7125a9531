"""The stage that writes media anew: where they lie, and that everything said of them stays true."""

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.sample import MediaPlace, Sample
from data_tools.splits import Split
from data_tools.stages.encode import Recipe
from data_tools.stages.listing import ListingHeader, read_listing
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.shrink import shrink_picture
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.transcode import transcode_stage
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.decoding.pixels import normalised
from megatron_mplug2.data.record import Region
from tests.data.media import encoded, gradient
from tests.data_tools.stages.corpora import faults, image, jpeg, listing_corpus, noise_clip, probed, text, tree, video, write_listing
from tests.shared import SHARED, needs_shared


def transcoded(listing: Path, out: Path, recipe: Recipe) -> dict[str, Sample]:
    assert run_stage(transcode_stage(listing_corpus(listing), recipe), out, Effort(workers=2)) == 0
    return {sample.key: sample for sample in read_listing(out)}


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transcode")
    large = image(folder / "large.jpg", encoded(gradient(90, 120), "JPEG"), "a large one")
    region = Region(box=(30.0, 45.0, 60.0, 9.0), phrases=("in it",))
    pair = replace(image(folder / "pair.jpg", jpeg(4), "two"), second=MediaPlace(path=folder / "large.jpg"))
    spoken = video(folder / "clip.mp4", noise_clip(1, frames=50))
    samples = [
        replace(large, record=replace(large.record, regions=(region,))),
        image(folder / "small.jpg", jpeg(2)),
        pair,
        replace(spoken, key="../clip of ünïcode", record=replace(spoken.record, span_s=(0.5, 1.5))),
        text("words", "some words"),
        video(folder / "cut.mp4", noise_clip(2)[:900]),
        image(folder / "none.jpg", b""),
    ]
    (folder / "none.jpg").unlink()
    return write_listing(folder / "listing", samples)


def test_what_is_written(listing: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = transcoded(listing, out, Recipe(short_side=48, fps=5))
    assert faults(out) == {"cut": "media file not readable", "none": "media file missing"}
    names = ["000-large.jpg", "002-pair-second.jpg", "003-___clip_of__n_code.mp4"]
    assert sorted(os.listdir(out / "media/000000")) == names
    large, pair, clip = found["large"], found["pair"], found["../clip of ünïcode"]
    assert large.look and large.look.facts and (large.look.facts.width, large.look.facts.height) == (64, 48)
    assert large.record.regions[0].box == pytest.approx((16.0, 24.0, 32.0, 4.8))
    before, after = (decode_image(each.media.read(), 32, FULL_VIEW) for each in (next(read_listing(listing)), large) if each.media)
    assert float((normalised(before) - normalised(after)).abs().mean()) < 0.05
    assert found["small"].media == MediaPlace(path=listing.parent / "small.jpg")
    assert pair.media == MediaPlace(path=listing.parent / "pair.jpg")
    assert pair.second == MediaPlace(path=out / "media/000000/002-pair-second.jpg")
    assert clip.record.span_s == (0.5, 1.5)
    assert clip.look and clip.look.facts and (clip.look.facts.frames, clip.look.facts.fps, clip.look.facts.height) == (10, 5.0, 48)
    assert clip.media
    assert clip.look.size == len(clip.media.read())
    assert found["words"].look


def test_the_folder_can_be_moved_and_read_as_any_listing(listing: Path, tmp_path: Path) -> None:
    transcoded(listing, tmp_path / "first", Recipe(short_side=48))
    moved = Path(shutil.move(tmp_path / "first", tmp_path / "moved"))
    assert faults(probed(moved, tmp_path / "probed")).keys() == {"cut", "none"}
    looks = [[sample.look for sample in read_listing(place)] for place in (moved, tmp_path / "probed")]
    assert looks[0] == looks[1]
    assert tree(moved) == tree_of(listing, tmp_path / "again")


def tree_of(listing: Path, out: Path) -> dict[str, bytes]:
    transcoded(listing, out, Recipe(short_side=48))
    return tree(out)


def oriented(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(oriented(gradient(60, 90)), id="lying"),
        pytest.param(encoded(gradient(60, 90)[..., 0], "PNG"), id="grey"),
        pytest.param(encoded(gradient(60, 90)[..., 0].astype(np.uint16) << 8, "PNG"), id="16 bit"),
        pytest.param(encoded(np.concatenate([gradient(60, 90), gradient(60, 90)[..., :1]], -1), "PNG"), id="transparent"),
        pytest.param(encoded(gradient(600, 900), "JPEG"), id="drafted"),
    ],
)
def test_pictures_look_as_before(data: bytes) -> None:
    shrunk = shrink_picture(data, 40)
    assert shrunk
    with Image.open(io.BytesIO(shrunk.data)) as small:
        assert (small.format, min(small.size)) == ("JPEG", 40)
        width, height = small.size
    assert width / shrunk.across / (height / shrunk.down) == pytest.approx(width / height, rel=0.02)
    before, after = (decode_image(each, 32, FULL_VIEW) for each in (data, shrunk.data))
    assert float((normalised(before) - normalised(after)).abs().mean()) < 0.06


def test_pictures_that_cannot_be_read() -> None:
    whole = encoded(gradient(90, 120), "JPEG", quality=95)
    for bad in (b"", b"garbage", whole[: len(whole) // 2]):
        with pytest.raises(BadMedia):
            shrink_picture(bad, 40)
    assert shrink_picture(whole, 90) is None
    with pytest.raises(BadMedia, match="1x83333 pixels it cannot be written as JPEG"):
        shrink_picture(encoded(np.zeros((250_000, 3), np.uint8), "PNG"), 1)


@needs_shared
@pytest.mark.long
def test_real_clips(tmp_path: Path) -> None:
    """Twelve clips of many sizes and rates, one in Matroska, one with variable rate, become alike and look as before."""
    assert SHARED
    place = SHARED / "corpora/real/video"
    corpus = Corpus(source="msrvtt", annotation=place / "videodatainfo.json", media=place / "videos", split=Split.TRAIN)
    assert run_stage(transcode_stage(corpus, Recipe(fps=3)), tmp_path / "out", Effort(workers=2)) == 0
    assert sum(ListingHeader.load(tmp_path / "out").kept.values()) == 12
    for before, after in zip(corpus.samples(), read_listing(tmp_path / "out"), strict=True):
        assert before.media and after.media and after.look and after.look.facts
        assert after.record == before.record
        assert (after.look.facts.fps, after.look.facts.codec) == (3.0, "h264") and min(
            after.look.facts.width, after.look.facts.height
        ) <= 256
        old, new = (decode_video(each.media.read(), 1, 32, FULL_VIEW, None) for each in (before, after) if each.media)
        assert float((normalised(old) - normalised(new)).abs().mean()) < 0.5
