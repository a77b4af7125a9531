"""Recall at k, where a query may have several right items."""

import torch


def recall(found: torch.Tensor, k: int) -> float:
    """[queries, candidates] bool, whether each is right, best first -> percentage of queries with a right one among the first k."""
    return 100 * float(found[:, :k].any(dim=1).double().mean())


def first_hits(similarity: torch.Tensor, hits: torch.Tensor) -> torch.Tensor:
    """[queries, items] and bool -> [queries] int64: the place of the best right item, from 1 on, after all others that are as similar."""
    best = similarity.masked_fill(~hits, -torch.inf).amax(dim=1, keepdim=True)
    return 1 + ((similarity >= best) & ~hits).sum(dim=1)
