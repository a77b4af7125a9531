"""Something-Something V2: ANNOTATION is `something-something-v2-train.json` or the like, --media the folder of its clips.

    [{"id": "78687", "label": "holding potato next to vicks vaporub", "template": "Holding [something] next to [something]", ...}, ...]

The template without its brackets is the class, the label is the caption; the test has neither. A clip is at DIR/78687.webm, or else there
as .mp4. The file is one split's; --split says which. Other fields are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, first_there, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class Ssv2Source:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        try:
            for row in read_json(annotation):
                key = as_text(row["id"], "an id")
                file = first_there(*(file_in(media, f"{key}{suffix}") for suffix in (".webm", ".mp4")))
                yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=_record(row, key))
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "ssv2", error) from None


def _record(row: dict[str, Any], key: str) -> Record:
    if "label" not in row and "template" not in row:
        return Record(attributes={})
    template = as_text(row["template"], f"the template of {key}")
    return Record(captions=(as_text(row["label"], f"the label of {key}"),), label=template.replace("[", "").replace("]", ""), attributes={})
