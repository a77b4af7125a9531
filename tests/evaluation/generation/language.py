"""A random language model without a network, and the rules of the searches told plainly, over tuples."""

import torch

from megatron_mplug2.evaluation.generation.settings import Bounds

VOCAB, PAD, START, END = 6, 0, 1, 2
CPU = torch.device("cpu")


class Language:
    """Random logits of the next token, a pure function of sample and prefix. It holds a search to what it says of parents."""

    def __init__(self, samples: int, width: int, seed: int = 0, scale: float = 2.0) -> None:
        self.samples, self.width, self.seed, self.scale = samples, width, seed, scale
        self._before = torch.empty(0, 0, dtype=torch.int64)

    def logits(self, sample: int, prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, sample, prefix)) % 2**62)
        return torch.randn(VOCAB, generator=generator) * self.scale

    def __call__(self, ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 1:
            assert torch.equal(parents // self.width, torch.arange(len(ids)) // self.width), "a parent of another sample"
            assert torch.equal(self._before[parents], ids[:, :-1]), "not what the parent was"
        self._before = ids
        return torch.stack([self.logits(row // self.width, tuple(prefix)) for row, prefix in enumerate(ids.tolist())])

    def log_p(self, sample: int, ids: tuple[int, ...]) -> float:
        """Of a whole sequence that begins with START."""
        return sum(float(self.logits(sample, ids[:n]).log_softmax(-1)[ids[n]]) for n in range(1, len(ids)))


def bounds(min_length: int = 0, max_length: int = 4) -> Bounds:
    return Bounds(min_length=min_length, max_length=max_length, start=START, end=END, pad=PAD)


def padded(ids: tuple[int, ...], within: Bounds) -> tuple[int, ...]:
    return ids + (PAD,) * (1 + within.max_length - len(ids))
