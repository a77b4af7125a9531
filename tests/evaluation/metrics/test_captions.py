"""On Java as it is here; the values are worked by hand from the measures' definitions."""

import math
import shutil

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.metrics.captions import caption_scores
from megatron_mplug2.evaluation.metrics.java import tokenized

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java: apt-get install default-jre-headless")


@needs_java
def test_words_are_those_of_cocos_tokenizer() -> None:
    texts = ["A man's dog, small; isn't here...", "", "two\nlines\u2028and|bars", "café — 1,000 m", "?", "(so)"]
    assert tokenized(texts) == ["a man 's dog small is n't here", "", "two lines and bars", "café 1,000 m", "", "-lrb- so -rrb-"]


def test_without_java_one_line_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^no java here.*apt-get install default-jre-headless$"):
        caption_scores(["a dog"], [["a dog"]])


@needs_java
@pytest.mark.long
def test_measures_by_hand() -> None:
    """Two captions of five words: the first is its reference, the second shares its first three words with its own."""
    said = ["Silver rockets orbit distant planets.", "young farmers plant green trees"]
    references = [["silver rockets orbit distant planets"], ["Young farmers plant yellow flowers"]]
    scores = caption_scores(said, references)
    precisions = [8 / 10, 6 / 8, 4 / 6, 2 / 4]
    assert scores.bleu == pytest.approx([100 * math.prod(precisions[:n]) ** (1 / n) for n in (1, 2, 3, 4)], rel=1e-6)
    assert scores.rouge_l == pytest.approx(100 * (1 + 3 / 5) / 2)
    # Every n-gram is in one of two captions, so all weigh alike and the cosine is the share that is common.
    assert scores.each_cider == pytest.approx((1000.0, 1000 * (3 / 5 + 2 / 4 + 1 / 3 + 0) / 4))
    assert scores.cider == pytest.approx(sum(scores.each_cider) / 2)
    # METEOR 1.5 for English, gamma 0.6 and beta 0.2: precision and recall 8/10; of eight words one chunk, since a whole match is none.
    assert scores.meteor == pytest.approx(100 * 0.8 * (1 - 0.6 * (1 / 8) ** 0.2))
    assert (scores.spice is None) == (scores.without_spice is not None)


@needs_java
@pytest.mark.long
def test_odd_captions_are_scored() -> None:
    """Nothing, marks alone, a word again and again, several references of which one is matched."""
    said = ["", "?!", "dog " * 50, "a cat sleeps"]
    references = [["a dog runs"], ["a dog runs", "the dog"], ["a dog runs"], ["something else", "a cat sleeps", "a | b"]]
    scores = caption_scores(said, references)
    assert scores.each_cider[:2] == (0.0, 0.0) and scores.each_cider[3] == max(scores.each_cider)
    assert 0 < scores.meteor < 100 and 0 < scores.rouge_l < 100
