"""Writes a small corpus of phrases about shapes, in the files that RefCOCO has.

DIR/refs(demo).p, instances.json        the phrases, a pickle of plain data, and the boxes
DIR/train2014/COCO_train2014_*.jpg      two shapes each, of different colours: to know which is meant one must read
"""

import json
import pickle
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.demo import media_files
from data_tools.demo.drawing import box_of, draw_together
from data_tools.demo.poses import SIDE, Pose
from data_tools.demo.scene import LOOKS
from data_tools.fresh_folder import fresh_folder
from data_tools.progress import track

REFS = "refs(demo).p"
PICTURES: Mapping[str, int] = {"train": 1600, "val": 64, "testA": 96, "testB": 96}
"""Of each split; every one has two shapes with two phrases each."""

_PLACES = tuple(product((14, 32, 50), repeat=2))
"""Centres, in pixels."""
_APART = 30
"""Pixels between two centres, across or down: no shape touches another."""


def make_refcoco(place: Path, seed: int, pictures: Mapping[str, int] = PICTURES) -> None:
    """Writes the corpus to a new folder, the same bytes for the same seed and library versions. Raises UserError if it exists."""
    splits = [split for split, count in pictures.items() for _ in range(count)]
    refs: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with fresh_folder(place) as folder:
        (folder / "train2014").mkdir()
        for number, split in enumerate(track(splits, "pictures", len(splits))):
            rng = np.random.default_rng([seed, number])
            poses = _two(rng)
            (folder / "train2014" / _name(number)).write_bytes(media_files.jpeg(draw_together(poses, rng)))
            for pose in poses:
                annotations.append({"id": len(annotations), "image_id": number, "bbox": box_of(pose)})
                refs.append(_ref(pose, number, split, len(refs)))
        images = [{"id": number, "file_name": _name(number), "width": SIDE, "height": SIDE} for number in range(len(splits))]
        (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
        (folder / REFS).write_bytes(pickle.dumps(refs, protocol=2))


def _two(rng: np.random.Generator) -> list[Pose]:
    while True:
        looks = [LOOKS[place] for place in rng.choice(len(LOOKS), 2, replace=False)]
        (x, y), (other_x, other_y) = (_PLACES[place] for place in rng.choice(len(_PLACES), 2, replace=False))
        if looks[0].color is not looks[1].color and max(abs(x - other_x), abs(y - other_y)) >= _APART:
            return [Pose(look=looks[0], x=x, y=y), Pose(look=looks[1], x=other_x, y=other_y)]


def _name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def _ref(pose: Pose, picture: int, split: str, number: int) -> dict[str, Any]:
    """With one annotation to each, both have the same number."""
    phrases = (f"{pose.look.color} {pose.look.shape}", f"the {pose.look.size} {pose.look.color} one")
    sentences = [
        {"sent_id": 2 * number + place, "sent": phrase, "raw": phrase, "tokens": phrase.split()} for place, phrase in enumerate(phrases)
    ]
    return {
        "ref_id": number,
        "ann_id": number,
        "image_id": picture,
        "file_name": _name(picture),
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }
