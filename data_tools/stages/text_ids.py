"""What makes two texts the same: their words, whatever the blanks between them, the label and the corpus."""

from dataclasses import dataclass

from megatron_mplug2.data.manifest import content_id
from megatron_mplug2.data.record import Record


@dataclass(frozen=True, kw_only=True)
class TextIds:
    """63-bit ids of the role "media"."""

    whole: int
    """Of the text, or of both texts of a pair in their order."""
    halves: tuple[int, ...]
    """Of each text of a pair; empty where there is no pair."""


def text_ids(record: Record) -> TextIds:
    """Of a sample without picture or clip; where it has no text but a label, say, of the whole record."""
    text, second = (" ".join(each.split()) for each in (record.text, record.second_text))
    if not text:
        return TextIds(whole=content_id("media", record.to_json()), halves=())
    if not second:
        return TextIds(whole=_id(text), halves=())
    return TextIds(whole=_id(f"{text}\n{second}"), halves=(_id(text), _id(second)))


def _id(words: str) -> int:
    return content_id("media", words.encode())
