"""Flickr30k captions: ANNOTATION is `results_20130124.token`, --media the folder of its pictures.

    1000092795.jpg#0<TAB>Two young guys with shaggy hair look at their hands while hanging out in the yard .
    1000092795.jpg#1<TAB>Two young , White males are outside near many bushes .

The lines of one picture are gathered. The file has no splits; --split says what it is. Karpathy's `dataset_flickr30k.json` has splits:
read it as `karpathy`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import file_in, read_tabs, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class Flickr30kSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        captions: dict[Path, list[str]] = {}
        try:
            for number, columns in read_tabs(annotation):
                name, mark, place = columns[0].partition("#")
                if len(columns) != 2 or not mark or not place.isdecimal():
                    raise ValueError(f"row {number} is not NAME#NUMBER<TAB>CAPTION")
                captions.setdefault(file_in(media, name), []).append(columns[1])
            for file, said in captions.items():
                record = Record(captions=tuple(said), attributes={})
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except (TypeError, ValueError) as error:
            raise wrong_layout(annotation, "flickr30k", error) from None
