import itertools

import pytest
import torch

from megatron_mplug2.evaluation.generation.beam_search import beam_search
from megatron_mplug2.evaluation.generation.hypotheses import generated, length_penalty
from megatron_mplug2.evaluation.generation.settings import Bounds
from tests.evaluation.generation.language import CPU, END, PAD, START, VOCAB, Language, bounds, padded


def every_sequence(within: Bounds) -> list[tuple[int, ...]]:
    """All that may be generated, START included."""
    inner = [token for token in range(VOCAB) if token not in (PAD, START, END)]
    ended = [
        (START, *middle, END)
        for length in range(within.min_length, within.max_length)
        for middle in itertools.product(inner, repeat=length)
    ]
    return ended + [(START, *middle) for middle in itertools.product(inner, repeat=within.max_length)]


@pytest.mark.parametrize("min_length", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_tree_finds_what_enumeration_finds(seed: int, min_length: int) -> None:
    within, width = bounds(min_length=min_length), 400
    language = Language(2, width, seed)
    found = beam_search(language, 2, width, within, CPU)
    for sample in range(2):
        scores = {ids: language.log_p(sample, ids) / length_penalty(len(ids) - 1) for ids in every_sequence(within)}
        best = max(scores, key=lambda ids: scores[ids])
        assert tuple(found.ids[sample].tolist()) == padded(best, within)
        assert float(found.scores[sample]) == pytest.approx(scores[best], rel=1e-5)


def plain_beam_search(language: Language, sample: int, width: int, within: Bounds) -> tuple[int, ...]:
    """The same rule over Python tuples, without the bound that ends it early."""
    living: dict[tuple[int, ...], float] = {(START,): 0.0}
    done: dict[tuple[int, ...], float] = {}
    for length in range(1, within.max_length + 1):
        allowed = [token for token in range(VOCAB) if token not in (PAD, START) and (token != END or length > within.min_length)]
        log_p = {ids: language.logits(sample, ids).log_softmax(-1).tolist() for ids in living}
        longer = {(*ids, token): score + log_p[ids][token] for ids, score in living.items() for token in allowed}
        kept = sorted(longer, key=lambda ids: -longer[ids])[:width]
        over = [ids for ids in kept if ids[-1] == END or length == within.max_length]
        done |= {ids: longer[ids] / length_penalty(length) for ids in over}
        living = {ids: longer[ids] for ids in kept if ids not in over}
    return max(done, key=lambda ids: done[ids])


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_narrow_beams_follow_the_rule(width: int) -> None:
    within = bounds(min_length=1, max_length=6)
    language = Language(8, width, width)
    found = beam_search(language, 8, width, within, CPU)
    expected = [plain_beam_search(language, sample, width, within) for sample in range(8)]
    assert [tuple(row) for row in found.ids.tolist()] == [padded(ids, within) for ids in expected]
    assert len({len(ids) for ids in expected}) > 1  # some end early


def test_one_beam_is_greedy() -> None:
    within = bounds(max_length=8)
    language = Language(6, 1)
    found = generated(beam_search(language, 6, 1, within, CPU), within)
    for sample in range(6):
        ids: tuple[int, ...] = (START,)
        while len(ids) <= within.max_length and ids[-1] != END:
            logits = language.logits(sample, ids)
            logits[[PAD, START]] = -torch.inf
            ids = (*ids, int(logits.argmax()))
        assert found[sample] == [token for token in ids if token not in (START, END)]


def certain(ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """Says 3, 4, [SEP] with near certainty."""
    logits = torch.zeros(len(ids), VOCAB)
    logits[:, {1: 3, 2: 4}.get(ids.shape[1], END)] = 20.0
    return logits


def test_the_search_ends_when_nothing_can_beat_what_is_found() -> None:
    lengths: list[int] = []

    def counted(ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return certain(ids, parents)

    within = bounds(max_length=30)
    found = beam_search(counted, 2, 3, within, CPU)
    assert generated(found, within) == [[3, 4], [3, 4]]
    assert max(lengths) < 6


def test_lengths_are_kept() -> None:
    longer = bounds(min_length=5, max_length=6)
    assert all(len(ids) >= 5 for ids in generated(beam_search(certain, 2, 3, longer, CPU), longer))
    shorter = bounds(max_length=1)
    assert generated(beam_search(certain, 2, 3, shorter, CPU), shorter) == [[3], [3]]
