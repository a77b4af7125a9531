"""Dotted names of the keys of a config tree, and the nearest right one for a wrong one."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

Place = tuple[int | str, ...]
"""Where a key stands: names of sections, and indices of lists."""

SIMILAR = 0.6
"""difflib's ratio from which two names count as alike."""
BESIDE = 0.1
"""What a name gains by standing in the same section as the wrong one."""
MOST_NAMED = 4


def dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)


def nearest(root: type[BaseModel], place: Place) -> list[str]:
    """Dotted keys that were probably meant by the unknown key at `place`: those most like it, in its own section or another.

    Several where sections share a name; none where nothing is alike.
    """
    here = tuple(0 if isinstance(part, int) else part for part in place[:-1])

    def likeness(found: Place) -> float:
        ratio = difflib.SequenceMatcher(None, str(place[-1]), str(found[-1])).ratio()
        return ratio + BESIDE if ratio >= SIMILAR and found[:-1] == here else ratio

    alike = {found: likeness(found) for found in places(root)}
    best = max(alike.values())
    if best < SIMILAR:
        return []
    likeliest = [found for found, score in alike.items() if score == best]
    return [dotted((*place[:-1], found[-1]) if found[:-1] == here else found) for found in likeliest][:MOST_NAMED]


def places(model: type[BaseModel], above: Place = ()) -> Iterator[Place]:
    """Every section and leaf below a model; lists of sections by their entry 0, sections that may be absent as if they were there."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        section = _section(field.annotation)
        if section is not None:
            yield from places(section, (*above, name))
            continue
        arguments = get_args(field.annotation)
        inside = (*above, name) if type(None) in arguments else (*above, name, 0)
        entries = [found for argument in arguments if (found := _section(argument)) is not None]
        for entry in entries:
            yield from places(entry, inside)


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
