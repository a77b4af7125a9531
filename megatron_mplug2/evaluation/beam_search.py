"""Beam search over a function that gives the logits of the next token."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

LENGTH_POWER = 0.6  # [CODE] released mPLUG-2's length penalty, GNMT's form

NextLogits = Callable[[torch.Tensor], torch.Tensor]
"""[samples * width, t] ids, the beams of a sample next to each other -> [samples * width, vocabulary] logits."""


@dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """How a sequence is searched. Lengths count generated tokens: [SEP] is one of them, [CLS] is not."""

    width: int
    """Beams of a sample; 1 is greedy decoding."""
    min_length: int
    """Tokens before [SEP] may come."""
    max_length: int
    """Tokens after which a sequence is taken as it is."""
    start: int
    """Id of [CLS], which is never generated."""
    end: int
    """Id of [SEP]."""
    pad: int
    """Id of [PAD], which is never generated."""


@dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """The best finished sequence of each sample so far."""

    scores: torch.Tensor
    """[samples] log-probability over the length penalty; -inf before the first."""
    ids: torch.Tensor
    """[samples, 1 + max_length], padded."""

    def offer(self, scores: torch.Tensor, ids: torch.Tensor) -> "Hypotheses":
        """With the best of more sequences: scores [samples, n] (-inf: none), ids [samples, n, t]. The first of equals stays."""
        best, place = scores.max(dim=1)
        better = best > self.scores
        rows = torch.arange(len(place), device=place.device)
        offered = torch.nn.functional.pad(ids[rows, place], (0, self.ids.shape[1] - ids.shape[2]))
        return Hypotheses(scores=torch.where(better, best, self.scores), ids=torch.where(better[:, None], offered, self.ids))


def length_penalty(length: int) -> float:
    """((5 + length) / 6) ** 0.6; a score is a log-probability over it."""
    return float(((5 + length) / 6) ** LENGTH_POWER)


@torch.no_grad()
def beam_search(next_logits: NextLogits, samples: int, settings: BeamSettings, device: torch.device) -> Hypotheses:
    """The best sequence of each sample: each step keeps the `width` best continuations, and those that end are done.

    A sample goes on while a living beam could still beat its best finished one (log-probabilities only fall, so a beam's present one
    over the largest penalty is a bound). What lives at the maximum length counts as finished. A pure function of the logits: all
    tensor-parallel ranks, whose logits are equal, find the same.
    """
    ids = torch.full((samples, settings.width, 1), settings.start, dtype=torch.int64, device=device)
    log_p = torch.full((samples, settings.width), -torch.inf, device=device)
    log_p[:, 0] = 0.0
    done = Hypotheses(
        scores=log_p.new_full((samples,), -torch.inf),
        ids=torch.full((samples, 1 + settings.max_length), settings.pad, dtype=torch.int64, device=device),
    )
    for length in range(1, settings.max_length + 1):
        step = next_logits(ids.flatten(0, 1)).float().log_softmax(-1).unflatten(0, (samples, settings.width))
        step[..., [settings.start, settings.pad]] = -torch.inf
        if length <= settings.min_length:
            step[..., settings.end] = -torch.inf
        log_p, place = (log_p[..., None] + step).flatten(1).topk(settings.width, dim=1)
        beam, token = place // step.shape[-1], place % step.shape[-1]
        ids = torch.cat([ids.gather(1, beam[..., None].expand(-1, -1, length)), token[..., None]], dim=2)
        finished = torch.full_like(token, True, dtype=torch.bool) if length == settings.max_length else token == settings.end
        done = done.offer((log_p / length_penalty(length)).masked_fill(~finished, -torch.inf), ids)
        log_p = log_p.masked_fill(finished, -torch.inf)
        if bool((log_p.amax(1) / length_penalty(settings.max_length) <= done.scores).all()):
            break
    return done


def generated(hypotheses: Hypotheses, settings: BeamSettings) -> list[list[int]]:
    """Each sample's tokens without [CLS], [SEP] and padding."""
    special = (settings.start, settings.end, settings.pad)
    return [[token for token in row if token not in special] for row in hypotheses.ids.tolist()]
