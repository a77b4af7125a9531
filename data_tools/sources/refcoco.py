"""RefCOCO, RefCOCO+ and RefCOCOg: ANNOTATION is `refs(unc).p`, `refs(umd).p` or `refs(google).p`, --media the folder of COCO's pictures.

    [{"ref_id": 1, "ann_id": 2, "image_id": 7, "split": "testA", "sentences": [{"sent": "left man", ...}, ...], ...}, ...]      a pickle

`instances.json` beside it has the boxes:

    {"annotations": [{"id": 2, "image_id": 7, "bbox": [1.5, 2.0, 30.0, 40.0], ...}, ...],
     "images": [{"id": 7, "width": 640, "height": 480, ...}, ...], ...}

The sentences about one object are a region, and the regions of one picture in one split are gathered; there are no captions. The splits
are "train", "val", "test", "testA" and "testB"; the attribute "split" keeps the name. A picture is at
DIR/train2014/COCO_train2014_000000000007.jpg, or else at DIR/COCO_train2014_000000000007.jpg or DIR/000000000007.jpg. The pickle is
read as plain data only; no code in it is run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_id, as_number, as_text, one_of, read_json, wrong_layout
from data_tools.sources.coco_pictures import coco_picture
from data_tools.sources.plain_pickle import read_plain_pickle
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.coordinates import Box, fault_of
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.record import Record, Region

_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST, "testA": Split.TEST, "testB": Split.TEST}
_BOXES = "instances.json"


@dataclass(frozen=True, kw_only=True)
class _Place:
    box: Box
    picture: MediaFacts | None
    """None where the file does not tell its size."""


class RefcocoSource:
    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and the boxes beside it."""
        return [annotation, annotation.parent / _BOXES]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        refs = read_plain_pickle(annotation)
        places = _places(annotation.parent / _BOXES)
        regions: dict[tuple[str, int], list[Region]] = {}
        try:
            if not isinstance(refs, list):
                raise TypeError("it is not a list")
            for ref in refs:
                place = as_text(ref["split"], "a split"), as_id(ref["image_id"], "an image_id")
                regions.setdefault(place, []).append(_region(ref, places))
            for (name, image), found in regions.items():
                file = coco_picture(media, "train2014", image)
                record = Record(regions=tuple(found), attributes={"split": name})
                split = one_of(name, _SPLITS, "a split")
                yield Sample(split=split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "refcoco", error) from None


def _region(ref: Any, places: dict[int, _Place]) -> Region:
    number = as_id(ref["ann_id"], "an ann_id")
    if number not in places:
        raise ValueError(f"annotation {number} is not in instances.json")
    place = places[number]
    fault = fault_of(place.box, place.picture) if place.picture is not None else None
    if fault is not None:  # only of what phrases speak of: COCO itself has boxes without a size
        raise ValueError(f"annotation {number}: {fault}")
    return Region(box=place.box, phrases=tuple(as_text(said["sent"], f"a sent of annotation {number}") for said in ref["sentences"]))


def _places(path: Path) -> dict[int, _Place]:
    try:
        fields = read_json(path)
        pictures = {as_id(each["id"], "an image's id"): _facts(each) for each in fields.get("images", ())}
        return {as_id(each["id"], "an id"): _place(each, pictures) for each in fields["annotations"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong_layout(path, "refcoco", error) from None


def _facts(image: Any) -> MediaFacts:
    width, height = (as_id(image[side], f"the {side} of image {image['id']}") for side in ("width", "height"))
    return MediaFacts(codec="jpeg", width=width, height=height)


def _place(annotation: Any, pictures: Mapping[int, MediaFacts]) -> _Place:
    what = f"the bbox of annotation {annotation['id']}"
    left, upper, width, height = (as_number(side, what) for side in annotation["bbox"])
    return _Place(box=(left, upper, width, height), picture=pictures.get(annotation.get("image_id")))
