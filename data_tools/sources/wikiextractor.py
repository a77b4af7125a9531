"""Wikipedia as WikiExtractor writes it: ANNOTATION is one of its files, or the folder with `AA/wiki_00` and the like; there are no media.

    <doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="Anarchism">
    Anarchism

    Anarchism is a political philosophy ...
    </doc>

or, of its --json, one document a line:

    {"id": "12", "url": "...", "title": "Anarchism", "text": "Anarchism is a political philosophy ..."}

`.bz2` is unpacked on the way. Empty documents are passed over. Wikipedia has no splits; --split says what it is.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import Sample
from data_tools.sources.base import as_text, files_of, read_lines, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_START = re.compile(r'<doc id="([^"]*)".*>\s*')


@dataclass(frozen=True)
class WikiextractorSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        for path in files_of(annotation):
            try:
                for key, text in _documents(read_lines(path)):
                    if text.strip():
                        record = Record(text=text.strip(), attributes={})
                        yield Sample(split=self.split, stream=Task.TEXT, key=key, media=None, record=record)
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                raise wrong_layout(path, "wikiextractor", error) from None


def _documents(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The id and the text of each."""
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            fields = json.loads(line)
            yield as_text(fields["id"], f"the id in line {number}"), as_text(fields["text"], f"the text in line {number}")
        elif start := _START.fullmatch(line):
            yield start[1], _text(lines, start[1])
        elif line.strip():
            raise ValueError(f"text outside a document: {line[:40].strip()!r}")


def _text(lines: Iterator[str], key: str) -> str:
    """The lines up to the document's end."""
    text: list[str] = []
    for line in lines:
        if line.strip() == "</doc>":
            return "".join(text)
        if _START.fullmatch(line):
            break
        text.append(line)
    raise ValueError(f"document {key} has no </doc>")
