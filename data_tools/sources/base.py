"""What a reader of a corpus gives, and the helpers that readers share."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_tools.splits import Split
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.manifest import Record
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample as its corpus has it, not looked into yet."""

    split: Split
    stream: Task
    key: str
    """The corpus's own name for it."""
    media: Path | None
    """The picture or clip, which may not be there; None for text."""
    record: Record
    meaning: str | None = None
    """Equal for samples that mean the same, where the corpus knows."""


class Source(Protocol):
    """A corpus's layout."""

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        """Every sample in the annotation, in its order; `media` is the folder that file names are relative to.

        Raises UserError when the annotation is not in the layout.
        """


def read_text(path: Path) -> str:
    """Raises UserError for a file that is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the annotation {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: byte {error.start}") from None


def read_json(path: Path) -> Any:
    """Raises UserError for a file that is missing or not JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # RecursionError: brackets too deep; ValueError: a number too long, too
        raise UserError(f"{path} is not JSON: {error}") from None


def as_text(value: Any, what: str) -> str:
    """A field that must be a text. Raises TypeError for another type, and ValueError for half a character (a lone surrogate)."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is {value!r}, which is not Unicode text") from None
    return value


def file_in(folder: Path, name: Any) -> Path:
    """The file of a name in an annotation. Raises TypeError or ValueError for what names no file below the folder."""
    relative = Path(as_text(name, "a file name"))
    if "\0" in name or relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"the file name {name!r} is not one inside --media")
    return folder / relative


def wrong_layout(path: Path, source: str, error: Exception) -> UserError:
    """For a KeyError, TypeError or ValueError while reading fields."""
    return UserError(f"{path} is not in the layout of `{source}` ({type(error).__name__}: {error}); see data_tools/sources/{source}.py")
