import torch

from megatron_mplug2.evaluation.metrics.recall import first_hits, recall
from megatron_mplug2.evaluation.ranking import candidates


def test_against_a_count_one_by_one() -> None:
    """Several right items, none for some queries, and many equal similarities."""
    generator = torch.Generator().manual_seed(3)
    similarity = torch.randint(0, 6, (40, 23), generator=generator).float()
    hits = torch.rand(40, 23, generator=generator) < 0.1
    assert not hits.any(dim=1).all() and (hits.sum(dim=1) > 1).any()
    for k in (1, 5, 10):
        found = 0
        for scores, right in zip(similarity.tolist(), hits.tolist(), strict=True):
            ordered = sorted(zip(scores, right, strict=True), key=lambda item: -item[0])  # stable
            found += any(hit for _, hit in ordered[:k])
        assert recall(hits.gather(1, candidates(similarity, 10)), k) == 100 * found / 40


def test_places_of_the_best_hits() -> None:
    similarity = torch.tensor([[0.1, 0.9, 0.2], [0.5, 0.5, 0.4], [0.3, 0.2, 0.1]])
    hits = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    assert first_hits(similarity, hits).tolist() == [1, 1, 3]
    assert first_hits(similarity, torch.eye(3, dtype=torch.bool)).tolist() == [3, 2, 3], "equals stand before"
