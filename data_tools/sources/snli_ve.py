"""SNLI-VE: ANNOTATION is `snli_ve_train.jsonl` or the like, --media the folder of Flickr30k's pictures.

    {"pairID": "4705552913.jpg#2r1n", "Flickr30K_ID": "4705552913", "sentence2": "The two boys are swimming.", "gold_label": "neutral", ...}

"sentence2", the hypothesis, is the caption, and "gold_label" what the picture says to it: entailment, neutral or contradiction. A picture
is at DIR/4705552913.jpg. The file is one split's; --split says which. Other fields are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, one_of, read_json_lines, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_LABELS = {label: label for label in ("entailment", "neutral", "contradiction")}


@dataclass(frozen=True)
class SnliVeSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        try:
            for number, row in read_json_lines(annotation, "snli_ve"):
                key = as_text(row["pairID"], f"the pairID in line {number}")
                file = file_in(media, f"{as_text(row['Flickr30K_ID'], f'the Flickr30K_ID in line {number}')}.jpg")
                said = as_text(row["sentence2"], f"the sentence2 in line {number}")
                record = Record(
                    captions=(said,), label=one_of(row["gold_label"], _LABELS, f"the gold_label in line {number}"), attributes={}
                )
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=key, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "snli_ve", error) from None
