"""What a search asks of a decoder, and what it has found."""

from dataclasses import dataclass
from typing import Protocol

import torch

from megatron_mplug2.evaluation.generation.settings import Bounds

LENGTH_POWER = 0.6  # [CODE] released mPLUG-2's length penalty, GNMT's form


class NextLogits(Protocol):
    def __call__(self, ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """[rows, t] ids, the sequences of a sample next to each other -> [rows, vocabulary] fp32 logits of the next token.

        Called with t = 1, 2, ...; row i without its last token is what row `parents[i]` was in the call before, of the same sample.
        """


@dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """The best sequence of each sample so far."""

    scores: torch.Tensor
    """[samples] log-probability over the length penalty; -inf before the first."""
    ids: torch.Tensor
    """[samples, 1 + max_length], padded."""

    @classmethod
    def none(cls, samples: int, bounds: Bounds, device: torch.device) -> "Hypotheses":
        return cls(
            scores=torch.full((samples,), -torch.inf, device=device),
            ids=torch.full((samples, 1 + bounds.max_length), bounds.pad, dtype=torch.int64, device=device),
        )

    def offer(self, scores: torch.Tensor, ids: torch.Tensor) -> "Hypotheses":
        """With the best of more sequences: scores [samples, n] (-inf: none), ids [samples, n, t]. The first of equals stays."""
        best, place = scores.max(dim=1)
        better = best > self.scores
        rows = torch.arange(len(place), device=place.device)
        offered = torch.nn.functional.pad(ids[rows, place], (0, self.ids.shape[1] - ids.shape[2]))
        return Hypotheses(scores=torch.where(better, best, self.scores), ids=torch.where(better[:, None], offered, self.ids))


@dataclass(frozen=True, kw_only=True)
class Beams:
    """The sequences that a beam search keeps of each sample."""

    ids: torch.Tensor
    """[samples, width, t], [CLS] first."""
    log_p: torch.Tensor
    """[samples, width] fp32; -inf where there is none."""
    parents: torch.Tensor
    """[samples, width] int64, the beam that each one goes on from."""

    @classmethod
    def first(cls, samples: int, width: int, bounds: Bounds, device: torch.device) -> "Beams":
        """One that holds [CLS]."""
        log_p = torch.full((samples, width), -torch.inf, device=device)
        log_p[:, 0] = 0.0
        return cls(
            ids=torch.full((samples, width, 1), bounds.start, dtype=torch.int64, device=device),
            log_p=log_p,
            parents=torch.arange(width, device=device).expand(samples, -1),
        )

    def continuations(self, next_logits: NextLogits) -> torch.Tensor:
        """[samples, width, vocabulary] log-probabilities of the next token."""
        samples, width, _ = self.ids.shape
        first_rows = torch.arange(samples, device=self.ids.device)[:, None] * width
        logits = next_logits(self.ids.flatten(0, 1), (first_rows + self.parents).flatten())
        return logits.float().log_softmax(-1).unflatten(0, (samples, width))

    def extended(self, log_p: torch.Tensor, place: torch.Tensor, vocabulary: int) -> "Beams":
        """By the continuations at `place` [samples, width] int64 of the flattened [width * vocabulary]."""
        parents, token = place // vocabulary, place % vocabulary
        before = self.ids.gather(1, parents[..., None].expand(-1, -1, self.ids.shape[2]))
        return Beams(ids=torch.cat([before, token[..., None]], dim=2), log_p=log_p, parents=parents)

    @property
    def last(self) -> torch.Tensor:
        """[samples, width] the last token of each."""
        return self.ids[..., -1]


def length_penalty(length: int) -> float:
    """((5 + length) / 6) ** 0.6; a score is a log-probability over it."""
    return float(((5 + length) / 6) ** LENGTH_POWER)


def generated(hypotheses: Hypotheses, bounds: Bounds) -> list[list[int]]:
    """Each sample's tokens without [CLS], [SEP] and padding."""
    special = (bounds.start, bounds.end, bounds.pad)
    return [[token for token in row if token not in special] for row in hypotheses.ids.tolist()]
