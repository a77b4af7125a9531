import pytest
import torch

from benchmarks.flop_counter import flop_counter
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.metrics.recall import recall
from megatron_mplug2.evaluation.ranking import Identities, Ranking, Retrieval, candidates, direction
from megatron_mplug2.evaluation.retrieval import RERANKED, Gallery
from tests.evaluation.tiny import layouts, make_inference, some_media, some_texts, task_of
from tests.ranks import run_ranks


def test_hits_are_equal_media_or_equal_meanings() -> None:
    ids = Identities(media=torch.tensor([7, 7, 8, 9]), meaning=torch.tensor([1, 2, 2, 3]))
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert ids.hits().int().tolist() == expected


def test_recall_with_a_repeated_meaning() -> None:
    similarity = torch.tensor(
        [
            [0.1, 0.9, 0.2, 0.0],  # best is item 1, of the same meaning: a hit
            [0.2, 0.1, 0.9, 0.3],  # item 2 is wrong, 3 too, then 0: a hit at 3
            [0.0, 0.1, 0.5, 0.9],  # a hit at 2
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    hits = Identities(media=torch.arange(4), meaning=torch.tensor([5, 5, 6, 7])).hits()
    found = hits.gather(1, candidates(similarity, 4))
    assert [recall(found, k) for k in (1, 2, 3, 4)] == [50.0, 75.0, 100.0, 100.0]
    # The matching head puts text 1's second candidate and text 2's second candidate first; ties keep the order of similarity.
    match = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]])
    ranked = direction(candidates(similarity, 4), match, hits)
    scored = ranked.result(gallery=3)
    assert (scored.r1, scored.r1_rerank, scored.r5_rerank) == (50.0, 75.0, 100.0)
    assert ranked.places() == [1, 3, 1, 1]
    assert scored.chance_r1 == 100 * (2 + 2 + 1 + 1) / 16
    assert (scored.r5, scored.r10, scored.gallery) == (100.0, 100.0, 3)


def test_only_the_best_candidates_are_ranked_and_the_first_of_equals_comes_first() -> None:
    assert candidates(torch.zeros(1, 40), 16).tolist() == [list(range(16))]


MEANING = torch.tensor([0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
SAMPLES = len(MEANING)  # odd: two ranks hold different numbers


def scored_on(layout: LayoutConfig, batch: int) -> tuple[Retrieval, torch.Tensor, torch.Tensor]:
    return scored(make_inference(layout), batch)


def scored(inference: Inference, batch: int, meaning: torch.Tensor = MEANING) -> tuple[Retrieval, torch.Tensor, torch.Tensor]:
    """Over SAMPLES clips, split round robin over data-parallel ranks."""
    topology = inference.context.topology
    media, texts = some_media(SAMPLES), some_texts(SAMPLES)
    gallery = Gallery(inference)
    for indices in torch.arange(topology.data_rank, SAMPLES, topology.data_size).split(batch):
        gallery.add(indices, inference.encode_media(media[indices], task_of(3)), texts[indices][:, None].unbind())
    gathered = gallery.gather()
    found = gathered.indices
    ranking = gathered.rank(Identities(media=found, meaning=meaning[found]), RERANKED)
    return ranking.retrieval(), gathered.similarity, found


@pytest.fixture(scope="module")
def reference() -> tuple[Retrieval, torch.Tensor, torch.Tensor]:
    alone: tuple[Retrieval, torch.Tensor, torch.Tensor] = run_ranks(1, scored_on, LayoutConfig(), 5)[0]
    return alone


def test_a_gallery_of_one_process(reference: tuple[Retrieval, torch.Tensor, torch.Tensor]) -> None:
    retrieval, similarity, found = reference
    assert found.tolist() == list(range(SAMPLES))
    assert similarity.shape == (SAMPLES, SAMPLES)
    assert retrieval.t2v.gallery == 17
    assert retrieval.t2v.chance_r1 == pytest.approx(100 * (SAMPLES + 4) / SAMPLES**2)
    assert retrieval.t2v != retrieval.v2t


@pytest.mark.parametrize("layout", [LayoutConfig(data=2), LayoutConfig(data=3), *layouts()], ids=["dp2", "dp3", "tp2", "tp2+sp"])
def test_other_layouts_find_the_same(layout: LayoutConfig, reference: tuple[Retrieval, torch.Tensor, torch.Tensor]) -> None:
    for retrieval, similarity, found in run_ranks(layout.world_size, scored_on, layout, 4):
        assert torch.equal(found, reference[2])
        torch.testing.assert_close(similarity, reference[1], rtol=1e-4, atol=1e-5)
        assert retrieval == reference[0]


def test_reranking_uses_the_match_of_each_pair() -> None:
    """Against match probabilities made pair by pair."""
    mine, plain = run_ranks(1, rerank_both_ways)[0]
    assert mine == pytest.approx(plain)
    assert min(mine) > 10


def rerank_both_ways() -> tuple[list[float], list[float]]:
    inference = make_inference(LayoutConfig())
    meaning = torch.arange(SAMPLES) % 3  # many hits, so that a wrong order would show
    retrieval, similarity, found = scored(inference, 6, meaning)
    media, text = inference.encode_media(some_media(SAMPLES), task_of(3)), inference.encode_text(some_texts(SAMPLES))
    hits = Identities(media=found, meaning=meaning).hits()
    plain = []
    for swapped in (False, True):
        right = 0
        for query, items in enumerate(candidates(similarity.T if swapped else similarity, RERANKED).tolist()):
            pairs = [(item, query) if swapped else (query, item) for item in items]
            rows = [inference.fuse(text.rows(torch.tensor([t])), media, torch.tensor([m])) for t, m in pairs]
            match = [float(inference.match_probability(row)) for row in rows]
            right += int(hits[query, items[match.index(max(match))]])
        plain.append(100 * right / SAMPLES)
    return [retrieval.t2v.r1_rerank, retrieval.v2t.r1_rerank], plain


TEXTS = [place % 4 for place in range(SAMPLES)]
"""Of each sample; some have none."""


def several_texts(layout: LayoutConfig) -> tuple[Ranking, torch.Tensor, torch.Tensor]:
    """The ranking, the similarities, and the sample of each text."""
    inference = make_inference(layout)
    topology, media, texts = inference.context.topology, some_media(SAMPLES), some_texts(sum(TEXTS)).split(TEXTS)
    gallery = Gallery(inference)
    for indices in torch.arange(topology.data_rank, SAMPLES, topology.data_size).split(4):
        gallery.add(indices, inference.encode_media(media[indices], task_of(3)), [texts[index] for index in indices])
    gathered = gallery.gather()
    return gathered.rank(Identities(media=gathered.indices, meaning=MEANING), 5), gathered.similarity, gathered.owner


def test_every_text_is_a_query_and_any_of_a_samples_texts_a_hit() -> None:
    """Against a count one by one; on two ranks as on one."""
    ranking, similarity, owner = run_ranks(1, several_texts, LayoutConfig())[0]
    assert owner.tolist() == [sample for sample, count in enumerate(TEXTS) for _ in range(count)]
    assert similarity.shape == (sum(TEXTS), SAMPLES)
    meaning = MEANING.tolist()
    for way, scores, queries, items in (
        (ranking.t2v, similarity, owner.tolist(), list(range(SAMPLES))),
        (ranking.v2t, similarity.T, list(range(SAMPLES)), owner.tolist()),
    ):
        result = way.result(ranking.gallery)
        for k, counted in ((1, result.r1), (5, result.r5)):
            best = [row.argsort(descending=True, stable=True)[:k].tolist() for row in scores]
            right = [any(meaning[items[item]] == meaning[query] for item in found) for query, found in zip(queries, best, strict=True)]
            assert counted == pytest.approx(100 * sum(right) / len(right))
        assert 0 < result.r5 < 100 and result.r5_rerank == result.r5, "five candidates are re-ranked"
    for other, close, owners in run_ranks(2, several_texts, LayoutConfig(data=2)):
        torch.testing.assert_close(close, similarity, rtol=1e-4, atol=1e-5)
        assert torch.equal(owners, owner) and other.retrieval() == ranking.retrieval()


def test_twice_the_samples_are_twice_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few pairs are fused at once: no part of them works on the whole gallery."""
    monkeypatch.setattr("megatron_mplug2.evaluation.retrieval.PAIRS_AT_ONCE", 16)
    once, twice = run_ranks(1, operations_of_reranking, 20, 40)[0]
    assert 1.9 * once < twice < 2.3 * once


def operations_of_reranking(*sizes: int) -> list[int]:
    inference, counts = make_inference(LayoutConfig()), []
    for size in sizes:
        gallery, ids = Gallery(inference), torch.arange(size)
        gallery.add(ids, inference.encode_media(some_media(size), task_of(3)), some_texts(size)[:, None].unbind())
        gathered = gallery.gather()
        with flop_counter() as counter:
            gathered.rank(Identities(media=ids, meaning=ids), 4)
        counts.append(counter.get_total_flops())
    return counts
