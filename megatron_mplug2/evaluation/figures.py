"""The figures of an evaluation by the names that people read, from the JSON that it wrote."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]
"""Results as they lie in `evaluation.json`."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Percentages, but for CIDEr; None where there is no such figure."""

    label: str
    trained: float | None
    untrained: float | None
    chance: float | None


def figures(trained: Results, untrained: Results) -> list[Figure]:
    """Every figure that an evaluation may have. `untrained` may be empty."""
    return [
        Figure(label=label, trained=_at(trained, keys), untrained=_at(untrained, keys), chance=_at(trained, chance))
        for label, keys, chance in _named()
    ]


def _named() -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    for kind, media in (("image", "picture"), ("video", "clip")):
        for way, label in (("t2v", f"text finds {media}"), ("v2t", f"{media} finds text")):
            at = ("retrieval", kind, way)
            yield f"{label}, R@1", (*at, "r1"), (*at, "chance_r1")
            yield f"{label}, R@1 re-ranked", (*at, "r1_rerank"), (*at, "chance_r1")
            yield f"{label}, R@10", (*at, "r10"), ()
    yield "all questions", ("qa", "all"), ()
    yield "questions about motion", ("qa", "motion"), ("qa", "chance_motion")
    yield "  clip reversed: opposite answer", ("qa", "motion_reversed_opposite"), ("qa", "chance_motion")
    yield "  one frame only: true answer", ("qa", "motion_single_frame"), ("qa", "chance_motion")
    yield "captions: color, shape, motion right", ("caption", "attributes_right"), ()
    yield "captions: CIDEr (of 10)", ("caption", "cider"), ()


def _at(results: Results, keys: tuple[str, ...]) -> float | None:
    """The number under the keys."""
    value: Any = results if keys else None
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
