"""Plain text: one document a line, UTF-8; empty lines are passed over. ANNOTATION is the file; there are no media."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import Sample
from data_tools.sources.base import read_loose_lines
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class TextSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        for number, line in enumerate(read_loose_lines(annotation), 1):
            if line.strip():
                record = Record(text=line.strip(), attributes={})
                yield Sample(split=self.split, stream=Task.TEXT, key=f"line{number}", media=None, record=record)
