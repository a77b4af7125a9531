"""COCO captions: ANNOTATION is `captions_train2017.json` or the like, --media the folder of its pictures.

    {"images": [{"id": 7, "file_name": "000000000007.jpg"}, ...], "annotations": [{"image_id": 7, "caption": "..."}, ...]}

An image has several captions; those of an image that is not listed are left out as one sample without media. The file is one split's;
--split says which. Other fields are passed over.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Reason, Sample
from data_tools.sources.base import as_text, file_in, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class CocoSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        fields = read_json(annotation)
        captions: defaultdict[int, list[str]] = defaultdict(list)
        try:
            for caption in fields["annotations"]:
                said = as_text(caption["caption"], f"a caption of image {caption['image_id']}")
                captions[caption["image_id"]].append(said)
            for image in fields["images"]:
                record = Record(captions=tuple(captions.pop(image["id"], ())), attributes={})
                file = file_in(media, image["file_name"])
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
            for image_id, said_of_it in captions.items():
                record = Record(captions=tuple(said_of_it), attributes={})
                sample = Sample(split=self.split, stream=Task.IMAGE_TEXT, key=str(image_id), media=None, record=record)
                yield sample.without(Reason.MISSING, f"no image has the id {image_id}")
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "coco", error) from None
