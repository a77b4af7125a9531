"""CIDEr-D of single captions, against pycocoevalcap over a whole corpus and against values by hand."""

import math
import random

import pytest
from pycocoevalcap.cider.cider import Cider

from megatron_mplug2.evaluation.metrics.cider_reward import CiderReward

WORDS = ["a", "red", "blue", "disc", "square", "moves", "up", "down", "and", "left"]


def test_it_is_pycocoevalcaps_where_the_corpus_is_what_is_scored() -> None:
    """Captions of up to 12 words, some empty, with words again and again; one to four references."""
    draw = random.Random(0)
    references = [[" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(draw.randint(1, 4))] for _ in range(40)]
    said = [draw.choice(told) if draw.random() < 0.3 else " ".join(draw.choices(WORDS, k=draw.randint(0, 12))) for told in references]
    _, expected = Cider().compute_score(dict(enumerate(references)), {place: [text] for place, text in enumerate(said)})
    reward = CiderReward.of(references)
    found = [reward.score(text, told) for text, told in zip(said, references, strict=True)]
    assert found == pytest.approx(list(expected), rel=1e-9, abs=1e-12)
    assert max(found) > 1 and min(found) == 0.0


def test_by_hand() -> None:
    """In four documents "cat" is in two and "dog" in one, so that they weigh log 2 and log 4."""
    reward = CiderReward.of([["cat"], ["Cat!", "cat"], ["dog"], ["bird"]])
    assert reward.frequencies == {("cat",): 2} and reward.documents == 4
    assert reward.score("dog", ["dog"]) == pytest.approx(10 / 4)  # of four lengths of n-grams it has one
    cosine = math.log(4) / math.hypot(math.log(2), math.log(4))
    assert reward.score("cat dog", ["dog"]) == pytest.approx(10 / 4 * cosine * math.exp(-1 / 72))  # one pair of words more
    assert reward.score("dog", ["dog", "bird"]) == pytest.approx(10 / 8)
    assert reward.score("", ["dog"]) == 0.0
