"""Karpathy's splits: ANNOTATION is `dataset_coco.json` or `dataset_flickr30k.json`, --media the folder of the pictures.

    {"images": [{"filename": "1.jpg", "filepath": "val2014", "split": "train", "sentences": [{"raw": "a cat"}, ...]}, ...]}

The splits are "train", "restval" (train, too), "val" and "test". A picture is at DIR/filepath/filename, or else at DIR/filename.
Flickr30k has no "filepath". Other fields are passed over.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, first_there, one_of, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_SPLITS = {"train": Split.TRAIN, "restval": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}


class KarpathySource:
    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        fields = read_json(annotation)
        try:
            for image in fields["images"]:
                name = as_text(image["filename"], "a filename")
                captions = tuple(as_text(sentence["raw"], f"a sentence of {name}") for sentence in image["sentences"])
                flat = file_in(media, name)
                file = first_there(file_in(file_in(media, image["filepath"]), name), flat) if "filepath" in image else flat
                record = Record(captions=captions, attributes={})
                split = one_of(image["split"], _SPLITS, "a picture's split")
                yield Sample(split=split, stream=Task.IMAGE_TEXT, key=flat.stem, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "karpathy", error) from None
