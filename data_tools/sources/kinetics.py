"""Kinetics-400, -600 and -700: ANNOTATION is `train.csv`, `validate.csv` or `test.csv`, --media the folder of its clips.

    label,youtube_id,time_start,time_end,split
    air drumming,--nQbRBEz2s,104,114,validate

The label is the class; a test without labels has no such column. The splits are "train", "val" or "validate", and "test". A clip, cut
already, is at DIR/--nQbRBEz2s_000104_000114.mp4, or else there in the folder of its label or its split. Other columns are passed over.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, first_there, one_of, read_rows, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "validate": Split.VALIDATION, "test": Split.TEST}


class KineticsSource:
    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        try:
            for row in read_rows(annotation):
                youtube = as_text(row["youtube_id"], "a youtube_id")
                key = f"{youtube}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
                split = one_of(row["split"], _SPLITS, f"the split of {key}")
                label = as_text(row["label"], f"the label of {key}") if "label" in row else None
                folders = ("", f"{label}/", f"{row['split']}/") if label else ("", f"{row['split']}/")
                file = first_there(*(file_in(media, f"{folder}{key}.mp4") for folder in folders))
                record = Record(label=label, attributes={})
                yield Sample(split=split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise wrong_layout(annotation, "kinetics", error) from None
