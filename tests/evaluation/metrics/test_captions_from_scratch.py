"""Caption measures against programs that were written here from the measures' papers, on many random captions."""

import math
import random
import shutil
from collections import Counter
from collections.abc import Sequence

import pytest

from megatron_mplug2.evaluation.metrics.captions import caption_scores

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"]
Caption = list[str]


def grams(caption: Caption, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(caption[place : place + n]) for place in range(len(caption) - n + 1))


def bleu(said: Sequence[Caption], references: Sequence[Sequence[Caption]], most: int) -> float:
    """Papineni et al. 2002: precisions clipped by the most that a reference has; lengths against the nearest reference's, the shorter of
    two."""
    length = sum(map(len, said))
    nearest = sum(min((abs(len(one) - len(own)), len(one)) for one in told)[1] for own, told in zip(said, references, strict=True))
    logs = 0.0
    for n in range(1, most + 1):
        right = total = 0
        for own, told in zip(said, references, strict=True):
            limit: Counter[tuple[str, ...]] = Counter()
            for one in told:
                limit |= grams(one, n)
            right += (grams(own, n) & limit).total()
            total += grams(own, n).total()
        logs += math.log(right / total)
    return min(1.0, math.exp(1 - nearest / length)) * math.exp(logs / most)


def common(one: Caption, other: Caption) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = row[:]
        for place, against in enumerate(other):
            row[place + 1] = above[place] + 1 if word == against else max(row[place], above[place + 1])
    return row[-1]


def rouge_l(own: Caption, told: Sequence[Caption]) -> float:
    """Lin 2004 with beta 1.2, as COCO's evaluation: the best precision and the best recall, which may be of different references."""
    precision = max(common(own, one) / len(own) for one in told)
    recall = max(common(own, one) / len(one) for one in told)
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if precision else 0.0


def cider_d(said: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> float:
    """Vedantam et al. 2015, CIDEr-D with sigma 6, as COCO's evaluation: lengths are counted in pairs of words."""
    total = 0.0
    for n in range(1, 5):
        documents = Counter(gram for told in references for gram in {gram for one in told for gram in grams(one, n)})

        def weighed(caption: Caption, n: int = n, documents: Counter[tuple[str, ...]] = documents) -> dict[tuple[str, ...], float]:
            return {gram: count * math.log(len(references) / max(1, documents[gram])) for gram, count in grams(caption, n).items()}

        for own, told in zip(said, references, strict=True):
            for one in told:
                a, b = weighed(own), weighed(one)
                norm = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
                cosine = sum(min(weight, b.get(gram, 0.0)) * b.get(gram, 0.0) for gram, weight in a.items()) / norm if norm else 0.0
                penalty = math.exp(-((len(own) - len(one)) ** 2) / (2 * 6.0**2))
                total += 10 / 4 * cosine * penalty / len(told) / len(said)
    return total


@pytest.mark.long
@pytest.mark.skipif(shutil.which("java") is None, reason="no java: apt-get install default-jre-headless")
def test_measures_are_those_of_their_papers() -> None:
    draw = random.Random(3)
    references = [[draw.choices(WORDS, k=draw.randint(4, 9)) for _ in range(draw.randint(1, 3))] for _ in range(30)]
    said = [[word if draw.random() < 0.8 else draw.choice(WORDS) for word in draw.choice(told)] for told in references]
    scores = caption_scores([" ".join(one) for one in said], [[" ".join(one) for one in told] for told in references])
    assert scores.bleu == pytest.approx([100 * bleu(said, references, most) for most in (1, 2, 3, 4)], rel=1e-6)
    each = [rouge_l(own, told) for own, told in zip(said, references, strict=True)]
    assert scores.rouge_l == pytest.approx(100 * sum(each) / len(each))
    assert scores.cider == pytest.approx(100 * cider_d(said, references))
