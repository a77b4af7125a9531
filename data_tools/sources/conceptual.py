"""Conceptual Captions: ANNOTATION is CC3M's or CC12M's TSV, --media the folder of the pictures under the names their URLs end in.

    a frosted red apple hangs from a branch<TAB>https://.../apple.jpg       CC3M
    https://.../apple.jpg<TAB>a frosted red apple hangs from a branch       CC12M

Which column is the URL is seen in each row. Two URLs that end in one name are an error, for the folder can hold but one of the two: give
such pictures other names, in the TSV too, or download with img2dataset and read its tars (`webdataset`). The file is one split's;
--split says which.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_of_url, read_lines, wrong_layout
from data_tools.sources.same_names import NamesOfUrls
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


@dataclass(frozen=True)
class ConceptualSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        names = NamesOfUrls()
        try:
            for number, line in enumerate(read_lines(annotation), 1):
                if line.strip():
                    caption, url = _caption_and_url(number, line.rstrip("\r\n"))
                    file = file_of_url(media, url, f"row{number}")
                    names.add(url, file.name, f"row {number}")
                    record = Record(captions=(as_text(caption, f"the caption in row {number}"),), attributes={})
                    yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except ValueError as error:
            raise wrong_layout(annotation, "conceptual", error) from None


def _caption_and_url(number: int, line: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(f"row {number} has {len(columns)} columns, not 2")
    left, right = columns
    if _URL.fullmatch(right.strip()):
        return left, right.strip()
    if _URL.fullmatch(left.strip()):
        return right, left.strip()
    raise ValueError(f"row {number} has no URL")
