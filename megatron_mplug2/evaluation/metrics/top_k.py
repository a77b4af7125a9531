"""Top-k accuracy of a classification."""

import torch


def top_k_accuracy(scores: torch.Tensor, labels: torch.Tensor, k: int) -> float:
    """`scores` [n, classes], the true `labels` [n] int64 -> percentage whose true class is among the k best.

    A class with the same score as the true one counts as better, so that a model that says the same of all classes is right in none.
    """
    own = scores.gather(1, labels[:, None])
    before = (scores >= own).sum(dim=1) - 1
    return 100 * float((before < k).double().mean())
