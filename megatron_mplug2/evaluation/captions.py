"""How good captions are: CIDEr against references, and whether they name what is to be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pycocoevalcap.cider.cider import Cider

from megatron_mplug2.evaluation.scoring import share, words

NAMED = ("color", "shape", "motion")
"""Attributes that a caption must name; the size is not counted."""


@dataclass(frozen=True, kw_only=True)
class CaptionPrediction:
    """A generated caption and what is known of its picture or clip."""

    index: int
    """Sample in the manifest of the split."""
    said: str
    references: tuple[str, ...]
    attributes: Mapping[str, str]
    """Attribute to value; empty where the corpus names none."""


@dataclass(frozen=True, kw_only=True)
class CaptionResult:
    cider: float
    """As pycocoevalcap gives it, 0 to 10 (papers print it times 100)."""
    attributes_right: float | None
    """Percentage of clips whose caption names colour, shape and motion right and no other, among those whose references all do; None
    where the corpus has none such."""


def score_captions(predictions: Sequence[CaptionPrediction]) -> CaptionResult:
    """Over all clips; words are compared in lower case and without punctuation."""
    known = [one for one in predictions if all(name in one.attributes for name in NAMED)]
    values = {name: frozenset(one.attributes[name] for one in known) for name in NAMED}
    told = [one for one in known if all(names_right(reference, one.attributes, values) for reference in one.references)]
    right = share([names_right(one.said, one.attributes, values) for one in told])
    return CaptionResult(cider=cider(predictions), attributes_right=right)


def cider(predictions: Sequence[CaptionPrediction]) -> float:
    references = {p.index: [" ".join(words(reference)) for reference in p.references] for p in predictions}
    said = {p.index: [" ".join(words(p.said))] for p in predictions}
    score, _ = Cider().compute_score(references, said)
    return float(score)


def names_right(text: str, attributes: Mapping[str, str], values: Mapping[str, frozenset[str]]) -> bool:
    """Whether a text names, of each attribute's possible values, just the right one."""
    return all(named(text, values[name]) == {attributes[name]} for name in NAMED)


def named(text: str, values: frozenset[str]) -> set[str]:
    """Values that a text names as whole words; a value inside a longer named one ("left" in "up and left") does not count."""
    said, found = words(text), set()
    phrases = {value: words(value) for value in values}
    place = 0
    while place < len(said):
        here = [value for value, phrase in phrases.items() if phrase and said[place : place + len(phrase)] == phrase]
        longest = max(here, key=lambda value: len(phrases[value]), default=None)
        found |= {longest} if longest is not None else set()
        place += len(phrases[longest]) if longest is not None else 1
    return found
