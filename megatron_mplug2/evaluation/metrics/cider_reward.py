"""CIDEr-D of single captions, by document frequencies that are counted once over a corpus.

pycocoevalcap counts them over the captions that are scored, which for the few of a batch would be another measure with every batch; over
a whole corpus both are the same (tests/evaluation/metrics/test_cider_reward.py).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from megatron_mplug2.evaluation.scoring import words

LONGEST = 4
"""Words of an n-gram at most."""
SIGMA = 6.0
"""Of the Gaussian penalty on a difference in length (Vedantam et al. 2015, arXiv 1411.5726, section 6)."""
SCALE = 10.0
"""Ibid.: a caption that is its only reference has 10."""

Gram = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CiderReward:
    frequencies: dict[Gram, int]
    """Pictures or clips with a reference that has the n-gram, where those are two or more: of others one is taken."""
    documents: int
    """Pictures and clips that were counted."""

    @classmethod
    def of(cls, corpus: Iterable[Sequence[str]]) -> Self:
        """`corpus`: the references of each picture or clip."""
        counted: Counter[Gram] = Counter()
        documents = 0
        for documents, references in enumerate(corpus, 1):  # noqa: B007  # read below
            counted.update({gram for reference in references for gram in _grams(reference)})
        return cls(frequencies={gram: count for gram, count in counted.items() if count > 1}, documents=documents)

    def score(self, said: str, references: Sequence[str]) -> float:
        """0 to 10; words are compared in lower case and without punctuation. At least one reference."""
        own = self._vector(said)
        return SCALE * sum(_similarity(own, self._vector(reference)) for reference in references) / len(references)

    def _vector(self, text: str) -> "_Vector":
        weights: list[dict[Gram, float]] = [{} for _ in range(LONGEST)]
        grams = _grams(text)
        for gram, count in grams.items():
            weights[len(gram) - 1][gram] = count * (math.log(self.documents) - math.log(self.frequencies.get(gram, 1)))
        norms = [math.sqrt(sum(weight**2 for weight in of_length.values())) for of_length in weights]
        # As in pycocoevalcap, the length is counted in pairs of words.
        return _Vector(weights=weights, norms=norms, length=sum(count for gram, count in grams.items() if len(gram) == 2))


@dataclass(frozen=True, kw_only=True)
class _Vector:
    """A text's n-grams, by their length."""

    weights: list[dict[Gram, float]]
    norms: list[float]
    length: int


def _grams(text: str) -> Counter[Gram]:
    said = words(text)
    return Counter(tuple(said[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(said) - n + 1))


def _similarity(said: _Vector, reference: _Vector) -> float:
    """Mean over lengths of the cosine, in which a repeated n-gram counts no more than the reference has it."""
    total = 0.0
    for own, other, own_norm, other_norm in zip(said.weights, reference.weights, said.norms, reference.norms, strict=True):
        if own_norm and other_norm:
            total += sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other) / (own_norm * other_norm)
    return total / LONGEST * math.exp(-((said.length - reference.length) ** 2) / (2 * SIGMA**2))
