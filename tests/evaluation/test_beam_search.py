import itertools

import pytest
import torch

from megatron_mplug2.evaluation.beam_search import BeamSettings, beam_search, generated, length_penalty

VOCAB, PAD, START, END = 6, 0, 1, 2
CPU = torch.device("cpu")


class Language:
    """Random logits of the next token, a pure function of sample and prefix."""

    def __init__(self, samples: int, width: int, seed: int = 0) -> None:
        self.samples, self.width, self.seed, self.calls = samples, width, seed, 0

    def logits(self, sample: int, prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, sample, prefix)) % 2**62)
        return torch.randn(VOCAB, generator=generator) * 2

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.stack([self.logits(row // self.width, tuple(prefix)) for row, prefix in enumerate(ids.tolist())])

    def log_p(self, sample: int, ids: tuple[int, ...]) -> float:
        """Of a whole sequence that begins with START."""
        return sum(float(self.logits(sample, ids[:n]).log_softmax(-1)[ids[n]]) for n in range(1, len(ids)))


def settings(width: int, min_length: int = 0, max_length: int = 4) -> BeamSettings:
    return BeamSettings(width=width, min_length=min_length, max_length=max_length, start=START, end=END, pad=PAD)


def every_sequence(search: BeamSettings) -> list[tuple[int, ...]]:
    """All that may be generated, START included."""
    inner = [token for token in range(VOCAB) if token not in (PAD, START, END)]
    ended = [
        (START, *middle, END)
        for length in range(search.min_length, search.max_length)
        for middle in itertools.product(inner, repeat=length)
    ]
    return ended + [(START, *middle) for middle in itertools.product(inner, repeat=search.max_length)]


@pytest.mark.parametrize("min_length", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_tree_finds_what_enumeration_finds(seed: int, min_length: int) -> None:
    search = settings(width=400, min_length=min_length)
    language = Language(2, search.width, seed)
    found = beam_search(language, 2, search, CPU)
    for sample in range(2):
        scores = {ids: language.log_p(sample, ids) / length_penalty(len(ids) - 1) for ids in every_sequence(search)}
        best = max(scores, key=lambda ids: scores[ids])
        assert tuple(found.ids[sample].tolist()) == padded(best, search)
        assert float(found.scores[sample]) == pytest.approx(scores[best], rel=1e-5)


def padded(ids: tuple[int, ...], search: BeamSettings) -> tuple[int, ...]:
    return ids + (PAD,) * (1 + search.max_length - len(ids))


def plain_beam_search(language: Language, sample: int, search: BeamSettings) -> tuple[int, ...]:
    """The same rule over Python tuples, without the bound that ends it early."""
    living: dict[tuple[int, ...], float] = {(START,): 0.0}
    done: dict[tuple[int, ...], float] = {}
    for length in range(1, search.max_length + 1):
        allowed = [token for token in range(VOCAB) if token not in (PAD, START) and (token != END or length > search.min_length)]
        log_p = {ids: language.logits(sample, ids).log_softmax(-1).tolist() for ids in living}
        longer = {(*ids, token): score + log_p[ids][token] for ids, score in living.items() for token in allowed}
        kept = sorted(longer, key=lambda ids: -longer[ids])[: search.width]
        over = [ids for ids in kept if ids[-1] == END or length == search.max_length]
        done |= {ids: longer[ids] / length_penalty(length) for ids in over}
        living = {ids: longer[ids] for ids in kept if ids not in over}
    return max(done, key=lambda ids: done[ids])


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_narrow_beams_follow_the_rule(width: int) -> None:
    search = settings(width=width, min_length=1, max_length=6)
    language = Language(8, width)
    found = beam_search(language, 8, search, CPU)
    expected = [plain_beam_search(language, sample, search) for sample in range(8)]
    assert [tuple(row) for row in found.ids.tolist()] == [padded(ids, search) for ids in expected]
    assert len({len(ids) for ids in expected}) > 1  # some end early


def test_one_beam_is_greedy() -> None:
    search = settings(width=1, max_length=8)
    language = Language(6, 1)
    found = generated(beam_search(language, 6, search, CPU), search)
    for sample in range(6):
        ids: tuple[int, ...] = (START,)
        while len(ids) <= search.max_length and ids[-1] != END:
            logits = language.logits(sample, ids)
            logits[[PAD, START]] = -torch.inf
            ids = (*ids, int(logits.argmax()))
        assert found[sample] == [token for token in ids if token not in (START, END)]


def certain(ids: torch.Tensor) -> torch.Tensor:
    """Says 3, 4, [SEP] with near certainty."""
    logits = torch.zeros(len(ids), VOCAB)
    logits[:, {1: 3, 2: 4}.get(ids.shape[1], END)] = 20.0
    return logits


def test_the_search_ends_when_nothing_can_beat_what_is_found() -> None:
    lengths: list[int] = []

    def counted(ids: torch.Tensor) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return certain(ids)

    search = settings(width=3, max_length=30)
    found = beam_search(counted, 2, search, CPU)
    assert generated(found, search) == [[3, 4], [3, 4]]
    assert max(lengths) < 6


def test_lengths_are_kept() -> None:
    longer = settings(width=3, min_length=5, max_length=6)
    assert all(len(ids) >= 5 for ids in generated(beam_search(certain, 2, longer, CPU), longer))
    shorter = settings(width=3, max_length=1)
    assert generated(beam_search(certain, 2, shorter, CPU), shorter) == [[3], [3]]
