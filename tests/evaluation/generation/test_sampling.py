from collections import Counter

import pytest
import torch

from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.generation.hypotheses import length_penalty
from megatron_mplug2.evaluation.generation.sampling import draw, draw_key
from megatron_mplug2.evaluation.generation.settings import Decoding, Mode
from tests.evaluation.generation.language import CPU, END, PAD, START, VOCAB, Language, bounds

LOGITS = torch.tensor([9.0, 9.0, -9.0, 2.0, 1.0, 0.0])
"""[PAD] and [CLS] look likely, and may not come."""


def one_token(decoding: Decoding, count: int = 4000) -> dict[int, float]:
    """Shares of the tokens that are drawn first."""
    within = bounds(max_length=1)
    found = draw(lambda ids, parents: LOGITS.expand(len(ids), -1), [draw_key(n, "") for n in range(count)], decoding, within, CPU)
    return {token: times / count for token, times in Counter(found.ids[:, 1].tolist()).items()}


def test_tokens_come_as_often_as_they_are_likely() -> None:
    for temperature in (1.0, 0.5):
        shares = one_token(Decoding(mode=Mode.SAMPLE, temperature=temperature))
        expected = (LOGITS[END:] / temperature).softmax(0)
        assert shares.keys() <= {END, 3, 4, 5}
        for token in (3, 4, 5):
            assert shares[token] == pytest.approx(float(expected[token - END]), abs=0.03)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    """0.665, 0.245, 0.090."""
    assert one_token(Decoding(mode=Mode.SAMPLE, top_p=0.6), 500).keys() == {3}
    assert one_token(Decoding(mode=Mode.SAMPLE, top_p=0.7), 500).keys() == {3, 4}
    assert one_token(Decoding(mode=Mode.SAMPLE, top_p=0.95), 500).keys() == {3, 4, 5}


class SomeSamples:
    """The language of some samples, each under its own number."""

    def __init__(self, samples: list[int]) -> None:
        self._samples, self.language = samples, Language(1, 1)

    def __call__(self, ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.language.logits(sample, tuple(row)) for sample, row in zip(self._samples, ids.tolist(), strict=True)])


def drawn(samples: list[int], seed: int = 0) -> tuple[list[list[int]], list[float], SomeSamples]:
    model, within = SomeSamples(samples), bounds(min_length=1, max_length=6)
    found = draw(model, [draw_key(sample, "what?") for sample in samples], Decoding(mode=Mode.SAMPLE, seed=seed), within, CPU)
    return found.ids.tolist(), found.scores.tolist(), model


def test_a_draw_does_not_depend_on_its_batch() -> None:
    everything, scores, _ = drawn(list(range(12)))
    for some in ([3], [7, 2, 11], [5, 5]):
        ids, found, _ = drawn(some)
        assert ids == [everything[sample] for sample in some] and found == [scores[sample] for sample in some]
    assert len({tuple(row) for row in everything}) > 6
    assert drawn(list(range(12)), seed=1)[0] != everything
    assert draw_key(1, "what?") != draw_key(1, "who?") != draw_key(2, "who?")


def test_lengths_and_scores() -> None:
    ids, scores, model = drawn(list(range(40)))
    lengths = set()
    for sample, (row, score) in enumerate(zip(ids, scores, strict=True)):
        said = tuple(row[: row.index(END) + 1] if END in row else row)
        lengths.add(len(said))
        assert not any(row[len(said) :]) and PAD not in said and START not in said[1:] and said[1] != END
        # [PAD] and [CLS] have no share, nor has [SEP] at first.
        log_p = 0.0
        for n in range(1, len(said)):
            logits = model.language.logits(sample, said[:n])
            logits[[PAD, START] + ([END] if n == 1 else [])] = -torch.inf
            log_p += float(logits.log_softmax(-1)[said[n]])
        assert score == pytest.approx(log_p / length_penalty(len(said) - 1), rel=1e-5)
    assert len(lengths) > 3
    assert max(max(row) for row in ids) < VOCAB


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"beams": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Decoding(**wrong)
