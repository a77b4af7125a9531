"""C4: ANNOTATION is one of its files, such as `c4-train.00000-of-01024.json.gz`, or a folder of them; there are no media.

    {"text": "Beginners BBQ Class ...", "timestamp": "...", "url": "..."}

One document a line; `.gz` is unpacked on the way. Empty documents are passed over. A file is one split's; --split says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import Sample
from data_tools.sources.base import as_text, files_of, read_json_lines, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class C4Source:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        for path in files_of(annotation):
            try:
                for number, fields in read_json_lines(path, "c4"):
                    text = as_text(fields["text"], f"the text in line {number}")
                    if text.strip():
                        record = Record(text=text.strip(), attributes={})
                        yield Sample(split=self.split, stream=Task.TEXT, key=f"line{number}", media=None, record=record)
            except (KeyError, TypeError, ValueError) as error:
                raise wrong_layout(path, "c4", error) from None
