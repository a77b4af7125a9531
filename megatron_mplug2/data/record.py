"""The texts and labels of a sample, as they lie beside its media in a shard."""

import json
from dataclasses import asdict, dataclass
from typing import Any

_MOST_SHOWN = 40
"""Characters of a wrong value in a message."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a picture or a clip."""

    question: str
    answer: str
    """The one that is taught: where several people answered, the most frequent."""
    kind: str = ""
    """What is asked for ("motion", "color", ...); empty where the corpus does not say."""
    reversed_answer: str | None = None
    """The right answer when the clip is played backwards, where the corpus knows it."""
    answers: tuple[str, ...] = ()
    """What each person answered, where several did (VQAv2: ten)."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a picture that phrases speak of."""

    box: tuple[float, float, float, float]
    """Left, upper edge, width, height; pixels of the upright picture."""
    phrases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The texts of a sample: captions, questions and regions of a picture or a clip, or a document; and its class."""

    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    text: str = ""
    """A document, or the first text of a pair (GLUE)."""
    second_text: str = ""
    """The second text of a pair; empty where there is none."""
    label: str | None = None
    """The class in words: of a picture, a clip, a pair of texts, or a picture with its hypothesis (which is the caption)."""
    regions: tuple[Region, ...] = ()
    span_s: tuple[float, float] | None = None
    """The part of the clip that the texts speak of: start and end in seconds from its first frame; None for all of it."""
    attributes: dict[str, str]

    def to_json(self) -> bytes:
        """The record as it lies in the tar: UTF-8, the same bytes for the same record."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @staticmethod
    def from_json(data: bytes) -> "Record":
        """Raises ValueError, KeyError, TypeError or AttributeError where the data is no record."""
        return Record.from_fields(json_of(data))

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> "Record":
        """From `asdict`'s fields as JSON has them; what is not there is empty. Raises as `from_json`."""
        span, label = fields.get("span_s"), fields.get("label")
        return Record(
            captions=_texts(fields["captions"]),
            questions=tuple(map(_question, fields["questions"])),
            text=_text(fields.get("text", "")),
            second_text=_text(fields.get("second_text", "")),
            label=None if label is None else _text(label),
            regions=tuple(map(_region, fields.get("regions", ()))),
            span_s=None if span is None else (_number(span[0]), _number(span[1])),
            attributes={name: _text(value) for name, value in dict(fields["attributes"]).items()},
        )


def json_of(data: bytes) -> Any:
    """Raises ValueError where the data is no JSON, also where its brackets go too deep."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("brackets too deep") from None


def _question(fields: dict[str, Any]) -> Question:
    texts = {name: _text(value) for name, value in fields.items() if value is not None and name != "answers"}
    return Question(**texts, answers=_texts(fields.get("answers", ())))


def _region(fields: dict[str, Any]) -> Region:
    left, upper, width, height = map(_number, fields["box"])
    return Region(box=(left, upper, width, height), phrases=_texts(fields["phrases"]))


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{_shown(values)} where a list of texts should be")
    return tuple(map(_text, values))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{_shown(value)} where a text should be")
    return value


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{_shown(value)} is too large") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."
