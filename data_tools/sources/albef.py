"""ALBEF's JSON lists: ANNOTATION is the file, --media the folder that its "image" or "video_id" is relative to.

    [{"image": "train2014/1.jpg", "caption": "a cat"}, {"video_id": "video7", "caption": ["a man dances", "someone dances"]}, ...]

The rows of one file are gathered. A "video_id" without a suffix is an .mp4. Of an absolute name, which says where the list was made, the
longest end that is a file below DIR is taken. The file is one split's; --split says which. Other fields
are passed over.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
        return Task.IMAGE_TEXT, _below(media, row["image"])
    file = _below(media, row["video_id"])
    return Task.VIDEO_TEXT, file if file.suffix else file_in(media, f"{row['video_id']}.mp4")


def _below(media: Path, name: Any) -> Path:
    """Raises as `file_in`, also for an absolute name of which no end is a file in `media`."""
    path = PurePosixPath(as_text(name, "a file name"))
    ends = (path.parts[first:] for first in range(1, len(path.parts))) if path.is_absolute() and ".." not in path.parts else ()
    found = next((place for place in (media.joinpath(*end) for end in ends) if os.path.isfile(place)), None)
    return found or file_in(media, name)


def _captions(caption: Any) -> list[str]:
    return [as_text(said, "a caption") for said in (caption if isinstance(caption, list) else [caption])]
