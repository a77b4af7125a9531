"""NLVR2: ANNOTATION is `train.json`, `dev.json` or `test1.json`, one JSON a line, --media the folder of its pictures.

    {"identifier": "train-10171-0-0", "directory": 37, "sentence": "There is one bird on the left.", "label": "False", ...}

The sentence is the caption of two pictures together, the label "True" or "False". They are at DIR/train-10171-0-img0.png and -img1.png, or
else there in DIR/train, DIR/dev or DIR/test1, of which train has the folders that "directory" names, or in DIR/images with the same
below it. The file is one split's; --split says which. Other fields are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, first_there, one_of, read_json_lines, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_LABELS = {label: label for label in ("True", "False")}


@dataclass(frozen=True)
class Nlvr2Source:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        try:
            for number, row in read_json_lines(annotation, "nlvr2"):
                key = as_text(row["identifier"], f"the identifier in line {number}")
                said = as_text(row["sentence"], f"the sentence in line {number}")
                record = Record(captions=(said,), label=one_of(row["label"], _LABELS, f"the label in line {number}"), attributes={})
                left, right = (MediaPlace(path=_picture(media, row, key, side)) for side in (0, 1))
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=key, media=left, second=right, record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "nlvr2", error) from None


def _picture(media: Path, row: dict[str, Any], key: str, side: int) -> Path:
    part = key.partition("-")[0]
    below = f"{part}/{row['directory']}" if "directory" in row else part
    name = f"{key.rpartition('-')[0]}-img{side}.png"
    return first_there(*(file_in(media, f"{folder}{name}") for folder in ("", f"{below}/", f"images/{below}/")))
