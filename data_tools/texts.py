"""The texts of a corpus, and a sample of them that fits into memory, drawn by their places."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_tools.keyed_sample import KeyedSample
from data_tools.progress import track
from data_tools.sources.base import read_loose_lines
from data_tools.stages.listing import LISTING, read_listing
from data_tools.stages.shard_texts import STREAMS
from data_tools.verify import stream_folders
from megatron_mplug2.config.objectives import LMConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.coordinates import edges_text
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError

ROOM = 1 << 29
"""Bytes of memory for the sampled texts: 2 million captions. WordPiece's trainer takes as much again, sentencepiece's six times as much."""
_TEXT_BYTES = 200
"""What a short text in the sample takes beside its characters."""
PASSAGE = 1000
"""Characters of the longest text in a sample; longer ones are cut, between words where they can be."""
_PASSAGES = re.compile(rf"\S.{{0,{PASSAGE - 2}}}\S(?=\s|$)|\S{{1,{PASSAGE}}}", re.DOTALL)

_INSTRUCTIONS: dict[Task, tuple[str, ...]] = {
    Task.TEXT: (),
    Task.IMAGE_TEXT: (LMConfig().image_instruction,),
    Task.VIDEO_TEXT: (LMConfig().video_instruction,),
}
"""What the model reads with every picture and clip."""


def texts_of(record: Record) -> Iterator[str]:
    """Every text that a model may read or learn to write."""
    yield record.text
    yield record.second_text
    yield from record.captions
    for question in record.questions:
        yield question.question
        yield question.answer
    for region in record.regions:
        yield from region.phrases
        yield edges_text(region.box)  # grounding writes such numbers
    if record.label is not None:
        yield record.label


def corpus_texts(places: Sequence[Path]) -> Iterator[str]:
    """All texts. A place is a folder with shards (all streams under it), a listing or a text file.

    Raises UserError for a place that is none of them or cannot be read.
    """
    for place in places:
        if (place / LISTING).exists():
            yield from _listing_texts(place)
        elif place.is_dir():
            for folder in stream_folders(place):
                yield from _manifest_texts(folder)
        else:
            yield from track(read_loose_lines(place), str(place))


def sampled(texts: Iterable[str], room: int = ROOM) -> list[str]:
    """All passages of the texts, in their order, where they fit into so many bytes of memory; else a keyed choice among them."""
    sample = KeyedSample[str]("texts", room)
    for text in texts:
        for passage in _PASSAGES.findall(text.encode(errors="replace").decode()):  # trainers refuse half a character (a lone surrogate)
            sample.offer(passage, _TEXT_BYTES + len(passage))
    return sample.items()


def _listing_texts(folder: Path) -> Iterator[str]:
    for sample in track(read_listing(folder), str(folder)):
        if not sample.fault:
            yield from texts_of(sample.record)
            yield from _INSTRUCTIONS[sample.stream]


def _manifest_texts(folder: Path) -> Iterator[str]:
    manifest = Manifest.load(folder)
    for number in track(range(len(manifest)), str(folder), len(manifest)):
        yield from texts_of(record_at(manifest, number, folder))
        yield from _INSTRUCTIONS[STREAMS[manifest.kind]]


def record_at(manifest: Manifest, number: int, folder: Path) -> Record:
    """Raises UserError where it is damaged."""
    try:
        return manifest.record(number)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the texts of sample {number} of {folder} cannot be read ({error}): run `mplug2 data verify {folder}`") from None
