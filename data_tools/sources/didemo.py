"""DiDeMo: ANNOTATION is `train_data.json`, `val_data.json` or `test_data.json`, --media the folder of its clips.

    [{"annotation_id": 7, "video": "54322086@N00_2408598493_274c77d26a.avi", "description": "car exits", "times": [[0, 0], [0, 1]]}, ...]

A description is a sample of its own: it speaks of a part of the clip. "times" has each person's first and last piece of 5 seconds, from
piece 0; the pair that most of them gave is taken, of equals the first. A clip is at DIR/video, or there with another suffix. The file is
one split's; --split says which. Other fields are passed over.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_id, as_number, as_text, file_in, files_by_stem, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_PIECE_S = 5
"""Seconds; from the corpus's paper (Hendricks et al. 2017)."""


@dataclass(frozen=True)
class DidemoSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        files = files_by_stem(media)
        try:
            for row in read_json(annotation):
                number = as_id(row["annotation_id"], "an annotation_id")
                said = as_text(row["description"], f"the description of {number}")
                file = file_in(media, row["video"])
                record = Record(captions=(said,), span_s=_span(row["times"], number), attributes={})
                place = MediaPlace(path=files.get(file.stem, file))
                yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=f"{file.stem}_{number}", media=place, record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "didemo", error) from None


def _span(times: Any, number: int) -> tuple[float, float]:
    """Seconds from the clip's beginning."""
    pairs = Counter((as_id(first, f"a time of {number}"), as_id(last, f"a time of {number}")) for first, last in times)
    if not pairs or any(not 0 <= first <= last for first, last in pairs):
        raise ValueError(f"the times of {number} are no pieces from first to last")
    first, last = pairs.most_common(1)[0][0]
    return as_number(first * _PIECE_S, f"a time of {number}"), as_number((last + 1) * _PIECE_S, f"a time of {number}")
