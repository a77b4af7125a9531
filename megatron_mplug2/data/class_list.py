"""The closed list of classes that a family of classification or entailment chooses from, one on each line of a text file."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from megatron_mplug2.data.line_list import plain, read_list
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ClassList:
    path: Path
    names: tuple[str, ...]
    """Lower-case, each once, in the order of the file."""

    @cached_property
    def numbers(self) -> tuple[float, ...] | None:
        """What the classes say where all are numbers: a score is then told as the nearest of them (T5's way with STS-B, Raffel et al.
        2020, section 2.4)."""
        found = tuple(number for name in self.names if (number := number_of(name)) is not None)
        return found if len(found) == len(self.names) else None

    def place(self, label: str) -> int | None:
        """Of the class that a sample's label means, in the list; None where it means none. Of two numbers that are equally near, the
        first."""
        if self.numbers is None:
            return self._places.get(plain(label))
        number = number_of(label)
        if number is None:
            return None
        return min(range(len(self.numbers)), key=lambda place: abs(self.numbers[place] - number))  # type: ignore[index]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}


def read_classes(path: Path) -> ClassList:
    """Of a text file, or of the `id2label` in an exported model's config.json.

    Raises UserError as `read_list`, and where two classes are one number.
    """
    classes = ClassList(path=path, names=_labels(path) if path.suffix == ".json" else read_list(path, "class", "classes"))
    found: dict[float, str] = {}
    for name, number in zip(classes.names, classes.numbers or (), strict=False):
        if number in found:
            raise UserError(f"{path}: {found[number]} and {name} are one number: leave one of them")
        found[number] = name
    return classes


def _labels(path: Path) -> tuple[str, ...]:
    try:
        labels = json.loads(path.read_bytes())["id2label"]
        names = tuple(plain(labels[str(place)]) for place in range(len(labels)))
    except OSError as error:
        raise UserError(f"cannot read the classes in {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        names = ()
    if len(set(names)) < max(len(names), 2) or "" in names:
        raise UserError(
            f"{path} has no id2label with two or more classes, each once, numbered from 0: name the config.json of an exported model "
            "that classifies, or a text file with one class on each line"
        )
    return names


def number_of(text: str) -> float | None:
    """The finite number that a text is, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
