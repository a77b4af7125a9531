"""What `mplug2 data demo` writes; see data_tools/demo/make.py. ANNOTATION and --media are its folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, read_text, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


class DemoSource:
    def files(self, annotation: Path, media: Path) -> Iterator[Path]:
        """The annotations: shards may be made in the same folder."""
        return (annotation / f"{split}.{ending}" for split in Split for ending in ("jsonl", "txt"))

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        for split in Split:
            path = annotation / f"{split}.jsonl"
            for line in read_text(path).splitlines():
                try:
                    yield _sample(split, json.loads(line), media)
                except (ValueError, KeyError, TypeError) as error:
                    raise wrong_layout(path, "demo", error) from None
            for number, text in enumerate(read_text(annotation / f"{split}.txt").splitlines()):
                yield Sample(split=split, stream=Task.TEXT, key=f"line{number}", media=None, record=Record(text=text, attributes={}))


def _sample(split: Split, fields: dict[str, Any], media: Path) -> Sample:
    file = file_in(media, fields["file"])
    record = Record.from_json(json.dumps({"text": ""} | fields).encode())
    for text in (*record.captions, *(text for asked in record.questions for text in (asked.question, asked.answer))):
        as_text(text, f"a text of {fields['file']}")
    meaning = as_text(fields["meaning"], f"the meaning of {fields['file']}")
    return Sample(split=split, stream=Task(fields["stream"]), key=file.stem, media=MediaPlace(path=file), record=record, meaning=meaning)
