"""ALBEF's JSON lists: ANNOTATION is the file, --media the folder that its "image" or "video_id" is relative to.

    [{"image": "train2014/1.jpg", "caption": "a cat"}, {"video_id": "video7", "caption": ["a man dances", "someone dances"]}, ...]

The rows of one file are gathered. A "video_id" without a suffix is an .mp4. The file is one split's; --split says which. Other fields
are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class AlbefSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        rows = read_json(annotation)
        captions: dict[tuple[Task, Path], list[str]] = {}
        try:
            if not isinstance(rows, list):
                raise TypeError("it is not a list")
            for row in rows:
                captions.setdefault(_file(row, media), []).extend(_captions(row["caption"]))
            for (stream, file), said in captions.items():
                record = Record(captions=tuple(said), attributes={})
                yield Sample(split=self.split, stream=stream, key=file.stem, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "albef", error) from None


def _file(row: dict[str, Any], media: Path) -> tuple[Task, Path]:
    if "image" in row:
        return Task.IMAGE_TEXT, file_in(media, row["image"])
    file = file_in(media, row["video_id"])
    return Task.VIDEO_TEXT, file if file.suffix else file_in(media, f"{row['video_id']}.mp4")


def _captions(caption: Any) -> list[str]:
    return [as_text(said, "a caption") for said in (caption if isinstance(caption, list) else [caption])]
