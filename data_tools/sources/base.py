"""What a reader of a corpus gives, and the helpers that readers share."""

import bz2
import codecs
import csv
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from data_tools.files_below import files_below, unreadable_folder
from data_tools.sample import Sample
from data_tools.splits import Split
from megatron_mplug2.errors import UserError

_T = TypeVar("_T")
_MOST_FIELD = 64 << 20
"""Characters of a field of a CSV; a quote that is never closed takes no more memory than that."""
_HEAD = 4096
"""Bytes in which UTF-16 shows."""
_UNPACK: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}


class Source(Protocol):
    """A corpus's layout."""

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        """Every sample in the annotation, in its order; `media` is the folder that file names are relative to.

        Raises UserError when the annotation is not in the layout.
        """


@runtime_checkable
class OfFiles(Protocol):
    """A source whose samples follow from more than the annotation: from files beside it, or from which files there are."""

    def files(self, annotation: Path, media: Path) -> Iterable[Path]:
        """All that decide which samples there are and in which order. Raises UserError as `samples` does."""


def read_text(path: Path) -> str:
    """Without a byte-order mark. Raises UserError for a file that is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
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


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file that may be larger than memory, with their ends, without a byte-order mark; `.gz` and `.bz2` are unpacked.

    Raises UserError for a file that is missing, damaged or not UTF-8.
    """
    unpack = _UNPACK.get(path.suffix, open)
    number = 0
    try:
        with unpack(path, "rt", encoding="utf-8-sig", newline="") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007  # read below
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read the annotation {path}: {getattr(error, 'strerror', None) or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: after line {number}") from None


def read_loose_lines(path: Path) -> Iterator[str]:
    """The lines of a plain text that may be larger than memory, with their ends, without a byte-order mark; a byte that is not UTF-8 spoils
    a character and no more. Raises UserError for a file that is missing, and for UTF-16 and UTF-32, of which not a word would be read.
    """
    try:
        with path.open("rb") as file:
            head = file.peek(_HEAD)[:_HEAD]
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 4 * head.count(0) > len(head):  # of Latin letters half are 0
                raise UserError(f"{path} is not UTF-8 text but UTF-16, it seems: convert it, such as with `iconv -f UTF-16 -t UTF-8`")
            yield from io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV by the names in its first line. Raises as `read_lines`, and csv.Error."""
    csv.field_size_limit(_MOST_FIELD)  # Python's own is 128 KiB, and one long caption would refuse the whole corpus
    return csv.DictReader(read_lines(path))


def read_json_lines(path: Path, source: str) -> Iterator[tuple[int, Any]]:
    """Each line's number, from 1, and value; empty lines are passed over. Raises UserError as `read_lines` and for what is not JSON."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise wrong_layout(path, source, ValueError(f"line {number} is not JSON: {error}")) from None
            yield number, value


def read_tabs(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line's number, from 1, and its columns between tabs; quotes mean nothing, empty lines are passed over."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield number, line.rstrip("\r\n").split("\t")


def read_split_lists(lists: Mapping[Split, Path]) -> dict[str, Split]:
    """The split of each name in lists of names, one a line; empty where none of the files is there. Raises UserError as `read_lines`."""
    return {line.strip(): split for split, path in lists.items() if path.exists() for line in read_lines(path) if line.strip()}


def files_of(place: Path) -> list[Path]:
    """The file itself, or every file below a folder, in the order of their names; hidden ones are passed over. Raises UserError
    where a folder cannot be read."""
    if not place.is_dir():
        return [place]
    return [path for path in files_below(place, lambda name: not name.startswith(".")) if path.is_file()]


def folders_in(place: Path) -> list[Path]:
    """The folders right in a folder, in the order of their names; hidden ones are passed over. Raises UserError as `files_of`."""
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise unreadable_folder(error) from None


def first_there(*files: Path) -> Path:
    """The first of the files that exists; the first of all where none does."""
    return next((file for file in files if os.path.isfile(file)), files[0])  # Path.is_file raises for a long name


def files_by_stem(folder: Path) -> dict[str, Path]:
    """The files right in a folder by their names without suffix; of two with one stem the first in order. Empty where it is no folder."""
    return {path.stem: path for path in sorted(folder.iterdir(), reverse=True)} if folder.is_dir() else {}


def file_of_url(folder: Path, url: str, otherwise: str) -> Path:
    """The file that has the name a URL ends in; `otherwise` where it ends in none. Raises ValueError as `file_in`."""
    name = url.split("?")[0].split("#")[0].rsplit("/", 1)[-1]
    return file_in(folder, otherwise if name in ("", ".", "..") else name)


def as_text(value: Any, what: str) -> str:
    """A field that must be a text. Raises TypeError for another type, and ValueError for half a character (a lone surrogate)."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is {value!r}, which is not Unicode text") from None
    return value


def as_number(value: Any, what: str) -> float:
    """A field that must be a finite number. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is {value!r}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{what} is a number of {len(str(value))} digits") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} is {value!r}, not a finite number")
    return number


def as_id(value: Any, what: str) -> int:
    """A field that must be a whole number. Raises TypeError."""
    if type(value) is not int:
        raise TypeError(f"{what} is {value!r}, not a whole number")
    return value


def one_of(value: Any, choices: Mapping[str, _T], what: str) -> _T:
    """What a word of the corpus stands for. Raises ValueError for another one."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{what} is {value!r}, not one of {', '.join(choices)}")
    return choices[value]


def as_name(value: Any) -> str:
    """A name in an annotation that must be one of a file below a folder. Raises TypeError or ValueError for another one."""
    name = as_text(value, "a file name")
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the file name {name!r} is not one inside --media")
    return name


def file_in(folder: Path, name: Any) -> Path:
    """The file of a name in an annotation. Raises as `as_name`."""
    return folder / as_name(name)


def wrong_layout(path: Path, source: str, error: Exception) -> UserError:
    """For a KeyError, TypeError or ValueError while reading fields."""
    return UserError(f"{path} is not in the layout of `{source}` ({type(error).__name__}: {error}); see `mplug2 data sources {source}`")
