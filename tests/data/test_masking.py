from pathlib import Path

import numpy as np
import pytest

from megatron_mplug2.config.objectives import MLMConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import IGNORED
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.masking import Masked, mask_tokens
from megatron_mplug2.data.tokenizer import Tokenizer
from tests.data.corpus import VOCAB


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    return Tokenizer(tmp_path / "vocab.txt", 64)


def mask(tokenizer: Tokenizer, tokens: np.ndarray, *, index: int = 0, epoch: int = 0, config: MLMConfig | None = None) -> Masked:
    return mask_tokens(tokens, config or MLMConfig(), tokenizer, SampleDraws(seed=1, task=Task.TEXT, epoch=epoch, index=index))


def test_shares(tokenizer: Tokenizer) -> None:
    """15 % of tokens, of these 80 / 10 / 10, within five standard deviations; a random piece may be the original one."""
    tokens = np.full(200, 7)
    rows = [mask(tokenizer, tokens, index=index) for index in range(1000)]
    chosen = np.concatenate([row.tokens[row.labels != IGNORED] for row in rows])
    count = len(chosen)
    assert count == pytest.approx(30_000, abs=5 * np.sqrt(200_000 * 0.15 * 0.85))
    ordinary = len(tokenizer.ordinary)
    for share, expected in ((chosen == tokenizer.mask, 0.8), (chosen == 7, 0.1 + 0.1 / ordinary)):
        assert share.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / count))
    random = np.bincount(chosen[(chosen != tokenizer.mask) & (chosen != 7)], minlength=len(VOCAB))
    assert not random[tokenizer.specials].any()
    expected_each = 0.1 * count / ordinary
    others = np.setdiff1d(tokenizer.ordinary, [7])
    assert np.abs(random[others] - expected_each).max() < 5 * np.sqrt(expected_each)


def test_only_chosen_tokens_change_and_labels_are_the_originals(tokenizer: Tokenizer) -> None:
    tokens = np.arange(5, 25)
    for index in range(200):
        masked = mask(tokenizer, tokens, index=index)
        chosen = masked.labels != IGNORED
        assert np.array_equal(masked.tokens[~chosen], tokens[~chosen])
        assert np.array_equal(masked.labels[chosen], tokens[chosen])


def test_specials_and_padding_stay(tokenizer: Tokenizer) -> None:
    tokens = np.array([2, 1, 6, 3, 4, 0, 0])
    masked = mask(tokenizer, tokens, config=MLMConfig(probability=0.999))
    assert np.flatnonzero(masked.labels != IGNORED).tolist() == [2]


def test_a_document_may_have_nothing_masked(tokenizer: Tokenizer) -> None:
    counts = [(mask(tokenizer, np.array([2, 6, 7]), index=index).labels != IGNORED).sum() for index in range(300)]
    assert {0, 1, 2} <= set(counts)


def test_draws_are_keyed_by_sample_and_epoch(tokenizer: Tokenizer) -> None:
    tokens = np.arange(5, 25).repeat(5)
    first, again = mask(tokenizer, tokens, index=3), mask(tokenizer, tokens, index=3)
    assert np.array_equal(first.tokens, again.tokens) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, mask(tokenizer, tokens, index=4).labels)
    assert not np.array_equal(first.labels, mask(tokenizer, tokens, index=3, epoch=1).labels)
