import pytest
import torch

from megatron_mplug2.config.schema import LayoutConfig
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.retrieval import Gallery, Identities, Retrieval, candidates, first_hits, recall, result
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
    found = hits.gather(1, candidates(similarity))
    assert [recall(found, k) for k in (1, 2, 3, 4)] == [50.0, 75.0, 100.0, 100.0]
    # The matching head puts text 1's second candidate and text 2's second candidate first; ties keep the order of similarity.
    match = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]])
    scored = result(similarity, match, hits, gallery=3)
    assert (scored.r1, scored.r1_rerank) == (50.0, 75.0)
    assert scored.chance_r1 == 100 * (2 + 2 + 1 + 1) / 16
    assert (scored.r5, scored.r10, scored.gallery) == (100.0, 100.0, 3)


def test_places_of_the_best_hits() -> None:
    similarity = torch.tensor([[0.1, 0.9, 0.2], [0.5, 0.5, 0.4], [0.3, 0.2, 0.1]])
    hits = Identities(media=torch.arange(3), meaning=torch.tensor([5, 5, 6])).hits()
    assert first_hits(similarity, hits).tolist() == [1, 1, 3]
    assert first_hits(similarity, torch.eye(3, dtype=torch.bool)).tolist() == [3, 2, 3], "equals stand before"


def test_only_the_best_candidates_are_ranked_and_the_first_of_equals_comes_first() -> None:
    assert candidates(torch.zeros(1, 40)).tolist() == [list(range(16))]


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
        gallery.add(indices, inference.encode_media(media[indices], task_of(3)), texts[indices])
    gathered = gallery.gather()
    found = gathered.indices
    return gathered.score(Identities(media=found, meaning=meaning[found])), gathered.similarity, found


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
        for query, items in enumerate(candidates(similarity.T if swapped else similarity).tolist()):
            pairs = [(item, query) if swapped else (query, item) for item in items]
            rows = [inference.fuse(text.rows(torch.tensor([t])), media, torch.tensor([m])) for t, m in pairs]
            match = [float(inference.match_probability(row)) for row in rows]
            right += int(hits[query, items[match.index(max(match))]])
        plain.append(100 * right / SAMPLES)
    return [retrieval.t2v.r1_rerank, retrieval.v2t.r1_rerank], plain
