"""RefCOCO, RefCOCO+ and RefCOCOg: ANNOTATION is `refs(unc).p`, `refs(umd).p` or `refs(google).p`, --media the folder of COCO's pictures.

    [{"ref_id": 1, "ann_id": 2, "image_id": 7, "split": "testA", "sentences": [{"sent": "left man", ...}, ...], ...}, ...]      a pickle

`instances.json` beside it has the boxes:

    {"annotations": [{"id": 2, "bbox": [1.5, 2.0, 30.0, 40.0], ...}, ...], ...}

The sentences about one object are a region, and the regions of one picture in one split are gathered; there are no captions. The splits
are "train", "val", "test", "testA" and "testB"; the attribute "split" keeps the name. A picture is at
DIR/train2014/COCO_train2014_000000000007.jpg, or else at DIR/COCO_train2014_000000000007.jpg or DIR/000000000007.jpg. The pickle is
read as plain data only; no code in it is run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_id, as_number, as_text, one_of, read_json, wrong_layout
from data_tools.sources.coco_pictures import coco_picture
from data_tools.sources.plain_pickle import read_plain_pickle
from data_tools.splits import Split
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.record import Record, Region

_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST, "testA": Split.TEST, "testB": Split.TEST}
_Box = tuple[float, float, float, float]


class RefcocoSource:
    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        refs = read_plain_pickle(annotation)
        boxes = _boxes(annotation.parent / "instances.json")
        regions: dict[tuple[str, int], list[Region]] = {}
        try:
            if not isinstance(refs, list):
                raise TypeError("it is not a list")
            for ref in refs:
                place = as_text(ref["split"], "a split"), as_id(ref["image_id"], "an image_id")
                regions.setdefault(place, []).append(_region(ref, boxes))
            for (name, image), found in regions.items():
                file = coco_picture(media, "train2014", image)
                record = Record(regions=tuple(found), attributes={"split": name})
                split = one_of(name, _SPLITS, "a split")
                yield Sample(split=split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "refcoco", error) from None


def _region(ref: Any, boxes: dict[int, _Box]) -> Region:
    number = as_id(ref["ann_id"], "an ann_id")
    if number not in boxes:
        raise ValueError(f"annotation {number} is not in instances.json")
    return Region(box=boxes[number], phrases=tuple(as_text(said["sent"], f"a sent of annotation {number}") for said in ref["sentences"]))


def _boxes(path: Path) -> dict[int, _Box]:
    try:
        return {as_id(each["id"], "an id"): _box(each["bbox"], each["id"]) for each in read_json(path)["annotations"]}
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_layout(path, "refcoco", error) from None


def _box(sides: Any, number: int) -> _Box:
    left, upper, width, height = (as_number(side, f"the bbox of annotation {number}") for side in sides)
    return left, upper, width, height
