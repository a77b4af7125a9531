"""Writes the demo corpus.

    DIR/train.jsonl, validation.jsonl, test.jsonl   one picture or clip a line: its file and texts
    DIR/train.txt, validation.txt, test.txt         one document a line
    DIR/images/*.jpg, DIR/videos/*.mp4

The test split has one picture or clip for each of its meanings, so that retrieval has one right answer.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_tools.demo import media_files, wording
from data_tools.demo.drawing import draw
from data_tools.demo.poses import poses
from data_tools.demo.scene import MOTIONS, ORDERS, PICTURES, PictureScene, Scene
from data_tools.fresh_folder import fresh_folder
from data_tools.progress import track
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Samples of a split."""

    motions: int
    """Clips of one thing that happens."""
    orders: int
    """Clips of two colors, one after the other."""
    pictures: int
    documents: int


SIZES = {
    Split.TRAIN: Sizes(motions=6 * len(MOTIONS), orders=2 * len(ORDERS), pictures=5 * len(PICTURES), documents=2000),
    Split.VALIDATION: Sizes(motions=112, orders=16, pictures=128, documents=128),
    Split.TEST: Sizes(motions=224, orders=32, pictures=216, documents=128),
}


def make_demo(place: Path, seed: int, sizes: dict[Split, Sizes] | None = None) -> None:
    """Writes the corpus to a new folder, the same bytes for the same seed and library versions. Raises UserError if it exists."""
    with fresh_folder(place) as folder:
        (folder / "images").mkdir()
        (folder / "videos").mkdir()
        for number, (split, size) in enumerate((sizes or SIZES).items()):
            _write_media(folder, split, size, (seed, number))
            _write_documents(folder, split, size, (seed, number))


def _write_media(folder: Path, split: Split, size: Sizes, seeds: tuple[int, ...]) -> None:
    rng = np.random.default_rng([*seeds, 0])
    clips: list[Scene] = [*_spread(MOTIONS, size.motions, rng), *_spread(ORDERS, size.orders, rng)]
    scenes = [clips[place] for place in rng.permutation(len(clips))] + _spread(PICTURES, size.pictures, rng)
    lines = [_write_one(folder, split, number, scene, seeds) for number, scene in enumerate(track(scenes, f"{split} media", len(scenes)))]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")


def _write_one(folder: Path, split: Split, number: int, scene: Scene, seeds: tuple[int, ...]) -> dict[str, object]:
    rng = np.random.default_rng([*seeds, 1, number])
    pictures = draw(poses(scene, rng), rng)
    still = isinstance(scene, PictureScene)
    stream, file = (Task.IMAGE_TEXT, f"images/{split}-{number:06d}.jpg") if still else (Task.VIDEO_TEXT, f"videos/{split}-{number:06d}.mp4")
    (folder / file).write_bytes(media_files.jpeg(pictures[0]) if still else media_files.mp4(pictures))
    texts = wording.record(scene)
    return {
        "stream": stream,
        "file": file,
        "captions": texts.captions,
        "questions": [asdict(question) for question in texts.questions],
        "attributes": texts.attributes,
        "meaning": scene.meaning,
    }


def _write_documents(folder: Path, split: Split, size: Sizes, seeds: tuple[int, ...]) -> None:
    rng = np.random.default_rng([*seeds, 2])
    pool: tuple[Scene, ...] = (*PICTURES, *MOTIONS, *ORDERS)
    documents = [wording.document([pool[place] for place in rng.integers(len(pool), size=2)], rng) for _ in range(size.documents)]
    (folder / f"{split}.txt").write_text("".join(f"{text}\n" for text in documents), encoding="utf-8")


def _spread(items: Sequence[_Item], count: int, rng: np.random.Generator) -> list[_Item]:
    """So many of the items in random order, each as often as every other, give or take one."""
    order = [place for _ in range(0, count, len(items)) for place in rng.permutation(len(items))]
    return [items[place] for place in order[:count]]
