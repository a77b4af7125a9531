"""MSVD: ANNOTATION is `AllVideoDescriptions.txt`, --media the folder of its clips (`YouTubeClips`).

    -4wsuPCjDBc_5_15 a squirrel is eating a peanut in it's shell

One description a line, after the lines of a head; those of one clip are gathered. The splits are in `train_list.txt`, `val_list.txt` and
`test_list.txt` beside it, a clip's name a line; a clip in none of them is passed over. Without the lists, --split says what the file is.
A clip is at DIR/-4wsuPCjDBc_5_15.avi; another suffix will do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, files_by_stem, read_lines, read_split_lists, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_LINE = re.compile(r"([\w-]{11}_\d+_\d+)\s+(.*\S)\s*")
_LISTS = {Split.TRAIN: "train_list.txt", Split.VALIDATION: "val_list.txt", Split.TEST: "test_list.txt"}


@dataclass(frozen=True)
class MsvdSource:
    split: Split

    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and the lists of splits beside it."""
        return [annotation, *_lists(annotation).values()]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        listed = read_split_lists(_lists(annotation))
        files = files_by_stem(media)
        try:
            for key, captions in _descriptions(read_lines(annotation)).items():
                split = listed.get(key) if listed else self.split
                if split is not None:
                    record = Record(captions=tuple(captions), attributes={})
                    file = files.get(key) or media / f"{key}.avi"
                    yield Sample(split=split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)
        except ValueError as error:
            raise wrong_layout(annotation, "msvd", error) from None


def _lists(annotation: Path) -> dict[Split, Path]:
    return {split: annotation.parent / name for split, name in _LISTS.items()}


def _descriptions(lines: Iterator[str]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found:
            captions.setdefault(found[1], []).append(as_text(found[2], f"line {number}"))
        elif captions and line.strip():
            raise ValueError(f"line {number} is no clip's name and description")
    if not captions:
        raise ValueError("there is no line with a clip's name and description")
    return captions
