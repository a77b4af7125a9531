"""Plain text: one document a line, UTF-8; empty lines are passed over. ANNOTATION is the file; there are no media."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import Sample
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError


@dataclass(frozen=True)
class TextSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        try:
            with annotation.open(encoding="utf-8", errors="replace") as lines:  # may be larger than memory; a bad byte spoils a character
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        record = Record(text=line.strip(), attributes={})
                        yield Sample(split=self.split, stream=Task.TEXT, key=f"line{number}", media=None, record=record)
        except OSError as error:
            raise UserError(f"cannot read {annotation}: {error.strerror}") from None
