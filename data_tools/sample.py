"""One sample of a corpus on its way to a shard, and why one is left out."""

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.record import Record


class Reason(StrEnum):
    """Why a sample is left out."""

    MISSING = "media file missing"
    UNREADABLE = "media file not readable"
    CRASHED = "the decoder crashed"
    HUNG = "the decoder hung"
    NO_TEXT = "no caption or text"
    TOO_LARGE = "texts or media too large"
    CAPTION_LENGTH = "caption too short or too long"
    SIZE = "picture or frames too small or too narrow"
    DURATION = "clip too short or too long"
    DUPLICATE_CONTENT = "the same bytes again"
    DUPLICATE_LOOK = "the same look again"
    IN_TEST_SET = "stands in a test set"


@dataclass(frozen=True, kw_only=True)
class Fault:
    reason: Reason
    detail: str = ""
    """What exactly, such as the decoder's message; empty where the reason says all."""


@dataclass(frozen=True, kw_only=True)
class MediaPlace:
    """Where a picture or clip lies: a file, or a stretch of one (a member of a tar)."""

    path: Path
    """May not be there."""
    offset: int = 0
    size: int | None = None
    """Bytes; None for the whole file."""
    suffix: str = ""
    """Of a tar's member (".mp4"); of a whole file its own is taken."""

    def read(self) -> bytes:
        """Raises OSError, also where the file ends early."""
        if self.size is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"{self.path} ends early: {self.size} bytes expected at {self.offset}")
        return data

    @property
    def extension(self) -> str:
        """The name's ending with its dot (".jpg"); empty where it has none."""
        return self.suffix or self.path.suffix

    @property
    def name(self) -> str:
        """For a person."""
        return str(self.path) if self.size is None else f"{self.path} at {self.offset}"


@dataclass(frozen=True, kw_only=True)
class Half:
    """One picture, or one text, of a pair by itself."""

    media_id: int
    """`content_id("media", ...)` of the picture, or of the words of the text."""
    look_hash: int
    """As `Look` has it."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What `probe` found in a sample's bytes."""

    facts: MediaFacts | None
    """None for text."""
    size: int
    """Bytes of the media, both pictures of a pair together."""
    media_id: int
    """`content_id("media", ...)` of the media, of both pictures together, or of the words of a text (see `text_ids`)."""
    look_hash: int
    """64-bit perceptual hash of the picture or of a clip's middle frame; 0 for text, of a pair that of the first picture."""
    halves: tuple[Half, ...] = ()
    """First and second of a pair; empty where there is no pair."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample as its corpus has it, and, once a stage has looked into it, what was found."""

    split: Split
    stream: Task
    key: str
    """The corpus's own name for it."""
    media: MediaPlace | None
    """The picture or clip; None for text."""
    second: MediaPlace | None = None
    """The other picture of a pair (NLVR2)."""
    record: Record
    meaning: str | None = None
    """Equal for samples that mean the same, where the corpus knows."""
    look: Look | None = None
    """None before `probe`."""
    fault: Fault | None = None
    """Why it is left out; None for one that is kept."""

    def without(self, reason: Reason, detail: str = "") -> "Sample":
        """The sample as one that is left out."""
        return replace(self, fault=Fault(reason=reason, detail=detail))

    def to_json(self) -> bytes:
        """One line without its end, the same for the same sample."""
        return as_utf8(json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, default=str))

    @staticmethod
    def from_json(line: bytes) -> "Sample":
        """Raises ValueError, KeyError, TypeError or AttributeError where the line is no sample."""
        fields: dict[str, Any] = json.loads(line)
        look, fault = fields["look"], fields["fault"]
        return Sample(
            split=Split(fields["split"]),
            stream=Task(fields["stream"]),
            key=fields["key"],
            media=_place(fields["media"]),
            second=_place(fields["second"]),
            record=Record.from_fields(fields["record"]),
            meaning=fields["meaning"],
            look=look and _look(look),
            fault=fault and Fault(reason=Reason(fault["reason"]), detail=fault["detail"]),
        )


def as_utf8(text: str) -> bytes:
    """Of JSON. A file name need not be UTF-8: what Python stands a lone surrogate for is written as JSON's escape of it, and read back."""
    return text.encode(errors="backslashreplace")


def _look(fields: dict[str, Any]) -> Look:
    facts, halves = fields["facts"], tuple(Half(**half) for half in fields["halves"])
    return Look(**fields | {"facts": facts and MediaFacts(**facts), "halves": halves})


def _place(fields: dict[str, Any] | None) -> MediaPlace | None:
    return MediaPlace(**fields | {"path": Path(fields["path"])}) if fields else None
