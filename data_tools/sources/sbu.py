"""SBU captions: ANNOTATION is `sbu-captions-all.json`, --media the folder of the pictures under the names their URLs end in.

    {"image_urls": ["http://static.flickr.com/2723/4385058960_b0f291553e.jpg", ...], "captions": ["A wooden chair", ...], ...}

The two lists belong together item by item. Two URLs that end in one name are an error, for the folder can hold but one of the two: give
such pictures other names, in the JSON too, or download with img2dataset and read its tars (`webdataset`). SBU has no splits; --split
says what it is. Other fields are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_of_url, read_json, wrong_layout
from data_tools.sources.same_names import NamesOfUrls
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class SbuSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        fields = read_json(annotation)
        names = NamesOfUrls()
        try:
            for number, (url, caption) in enumerate(zip(fields["image_urls"], fields["captions"], strict=True)):
                file = file_of_url(media, as_text(url, f"image_urls[{number}]"), f"item{number}")
                names.add(url, file.name, f"image_urls[{number}]")
                record = Record(captions=(as_text(caption, f"captions[{number}]"),), attributes={})
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "sbu", error) from None
