"""The demo corpus: the same bytes every time, and what its texts say is what its media show."""

import json
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.demo.drawing import draw
from data_tools.demo.make import SIZES, Sizes, make_demo
from data_tools.demo.media_files import jpeg, mp4
from data_tools.demo.poses import SIDE, STEPS, Pose, poses
from data_tools.demo.scene import MOTIONS, ORDERS, PICTURES, Color, Look, Motion, MotionScene, Scene, Shape, Size
from data_tools.demo.wording import record
from data_tools.splits import Split
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.errors import UserError
from tests.data.media import facts_of
from tests.data.test_decode import pixels_of
from tests.data_tools.stages.corpora import forked, status_of

SMALL = {split: Sizes(motions=12, orders=3, pictures=6, documents=5) for split in Split}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(folder: Path, split: Split) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def scene_at(scenes: tuple[Scene, ...], number: int) -> tuple[list[Pose], Scene]:
    return poses(scenes[number], np.random.default_rng(number)), scenes[number]


def contrast(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[side, side], how much each pixel differs from the ground."""
    return np.asarray(abs(frame - np.median(frame, axis=(0, 1))).max(-1))


def centre(frame: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean column and row of the shape, in shares of the side."""
    bright = (contrast(frame) > 50).astype(float)
    rows, columns = np.mgrid[0 : len(frame), 0 : len(frame)] / len(frame)
    return float((columns * bright).sum() / bright.sum()), float((rows * bright).sum() / bright.sum())


def clip_of(motion: Motion, seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    look = Look(color=list(Color)[seed % 6], shape=list(Shape)[seed % 4], size=list(Size)[seed % 2])
    data = mp4(draw(poses(MotionScene(look=look, motion=motion), rng), rng))
    return pixels_of(decode_video(data, 4, 32, FULL_VIEW, None)).astype(float)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    make_demo(tmp_path / "a", 3, SMALL)
    make_demo(tmp_path / "b", 3, SMALL)
    make_demo(tmp_path / "c", 4, SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_splits_do_not_share_media(tmp_path: Path) -> None:
    make_demo(tmp_path / "a", 0, SMALL)
    media = [data for name, data in files(tmp_path / "a").items() if name.startswith(("images/", "videos/"))]
    assert len(media) == len(set(media)) == 3 * 21


def test_place_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        make_demo(tmp_path, 0, SMALL)


def test_a_disk_that_is_full_is_told_in_words(tmp_path: Path) -> None:
    def refused() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(UserError, match=r"^cannot write .*/demo: File too large$"):
            make_demo(tmp_path / "demo", 0, SMALL)

    assert status_of(forked(refused)) == 0
    assert not list(tmp_path.iterdir())


def test_layout(tmp_path: Path) -> None:
    make_demo(tmp_path / "a", 0, SMALL)
    for split in Split:
        samples = lines(tmp_path / "a", split)
        assert Counter(sample["stream"] for sample in samples) == {"video_text": 15, "image_text": 6}
        for sample in samples:
            data = (tmp_path / "a" / sample["file"]).read_bytes()
            if sample["stream"] == "video_text":
                facts = facts_of(data)
                assert (facts.frames, facts.width, facts.height, facts.fps) == (8, SIDE, SIDE, 8.0)
            else:
                assert decode_image(data, 32, FULL_VIEW).shape == (3, 1, 32, 32)
        assert len((tmp_path / "a" / f"{split}.txt").read_text().splitlines()) == 5


def test_test_split_has_one_clip_a_meaning() -> None:
    sizes = SIZES[Split.TEST]
    assert sizes.motions + sizes.orders >= 240 and sizes.motions <= len(MOTIONS) and sizes.orders <= len(ORDERS)
    assert 200 <= sizes.pictures <= len(PICTURES)
    for scenes in (MOTIONS, ORDERS, PICTURES):
        assert len({scene.meaning for scene in scenes}) == len(scenes)
        assert len({record(scene).captions[0] for scene in scenes}) == len(scenes)


def test_small_split_has_one_clip_a_meaning(tmp_path: Path) -> None:
    make_demo(tmp_path / "a", 0, SMALL)
    meanings = [sample["meaning"] for sample in lines(tmp_path / "a", Split.TEST)]
    assert len(set(meanings)) == len(meanings)


@pytest.mark.parametrize("scenes", [PICTURES, MOTIONS, ORDERS])
def test_first_caption_names_everything(scenes: tuple[Scene, ...]) -> None:
    for scene in scenes:
        texts = record(scene)
        words = texts.captions[0].split()
        assert len(set(texts.captions)) == 3
        for value in texts.attributes.values():
            if value != "changes color":
                assert set(value.split()) <= set(words)
        for question in texts.questions:
            assert question.answer in texts.captions[0]
            assert question.kind in {"motion", "position", "color", "shape", "size", "order"}
            assert (question.reversed_answer is not None) == (question.kind in {"motion", "order"})


@pytest.mark.parametrize("motion", list(Motion))
def test_reverse_shows_the_same_pictures_backwards(motion: Motion) -> None:
    assert motion.reverse.reverse is motion is not motion.reverse
    look = Look(color=Color.RED, shape=Shape.CROSS, size=Size.LARGE)
    for seed in range(20):
        there, back = (poses(MotionScene(look=look, motion=m), np.random.default_rng(seed)) for m in (motion, motion.reverse))
        assert len(there) == STEPS
        assert there == back[::-1]
        assert there[1] == there[2] == back[1] == back[2]  # the middle does not tell
        turned = there[-1].angle - there[0].angle
        assert (turned > 0, turned < 0) == (motion is Motion.CLOCKWISE, motion is Motion.ANTICLOCKWISE)


@pytest.mark.parametrize(("motion", "axis", "sign"), [(Motion.LEFT, 0, -1), (Motion.RIGHT, 0, 1), (Motion.UP, 1, -1), (Motion.DOWN, 1, 1)])
def test_clips_show_the_direction(motion: Motion, axis: int, sign: int) -> None:
    for seed in range(8):
        places = np.array([centre(frame) for frame in clip_of(motion, seed)])
        way = np.diff(places[:, axis]) * sign
        assert way[0] > 0.15 and way[2] > 0.15 and abs(way[1]) < 0.01
        assert abs(np.diff(places[:, 1 - axis])).max() < 0.02


@pytest.mark.parametrize(("motion", "sign"), [(Motion.GROWS, 1), (Motion.SHRINKS, -1)])
def test_clips_show_growth(motion: Motion, sign: int) -> None:
    for seed in range(8):
        areas = [(contrast(frame) > 50).sum() for frame in clip_of(motion, seed)]
        assert (areas[1] - areas[0]) * sign > 10 and (areas[3] - areas[2]) * sign > 10


@pytest.mark.parametrize(("motion", "sign"), [(Motion.APPEARS, 1), (Motion.VANISHES, -1)])
def test_clips_show_coming_and_going(motion: Motion, sign: int) -> None:
    for seed in range(8):
        shown = [contrast(frame).max() for frame in clip_of(motion, seed)][::sign]
        assert shown[0] < 35 and shown[1] > 40 and shown[3] > 1.5 * shown[1]


@pytest.mark.parametrize("shape", list(Shape))
@pytest.mark.parametrize("size", list(Size))
def test_turning_shows_on_every_shape(shape: Shape, size: Size) -> None:
    """At 32x32 a quarter of a turn changes many pixels, and clockwise and anticlockwise give different pictures."""
    rng = np.random.default_rng(0)
    look = Look(color=Color.WHITE, shape=shape, size=size)
    frames = [Pose(look=look, x=32, y=32, hand=True, angle=quarter * np.pi / 2) for quarter in range(4)]
    small = [pixels_of(decode_image(jpeg(pixels), 32, FULL_VIEW))[0].astype(float).mean(-1) for pixels in draw(frames, rng)]
    for first in range(4):
        for second in range(first):
            assert (abs(small[first] - small[second]) > 60).sum() >= 4, (first, second)


@pytest.mark.parametrize("number", range(0, len(ORDERS), 17))
def test_order_clips_change_color_once(number: int) -> None:
    shown, scene = scene_at(ORDERS, number)
    texts = record(scene)
    assert [pose.look.color for pose in shown] == [texts.attributes["color"]] * 2 + [texts.attributes["second_color"]] * 2
    first = texts.questions[0]
    assert (first.question, first.answer, first.reversed_answer) == ("which color comes first?", shown[0].look.color, shown[-1].look.color)


@pytest.mark.parametrize("number", range(0, len(PICTURES), 5))
def test_pictures_show_their_place(number: int) -> None:
    rng = np.random.default_rng(number)
    scene = PICTURES[number]
    column, row = centre(pixels_of(decode_image(jpeg(draw(poses(scene, rng), rng)[0]), 32, FULL_VIEW))[0])
    words = scene.place.split()
    assert ("left" in words) == (column < 0.4) and ("right" in words) == (column > 0.6)
    assert ("top" in words) == (row < 0.4) and ("bottom" in words) == (row > 0.6)
