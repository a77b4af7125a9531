"""Beam search by a function that gives the next token's logits: as the released code does it, and without its quirks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

LENGTH_POWER = 0.6  # the released length penalty, GNMT's form

NextLogits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Newest ids [samples * width], the beams of a sample next to each other, and for each the row of the call before that it continues
[samples * width] -> [samples * width, vocabulary] logits."""


@dataclass(frozen=True)
class BeamSettings:
    """How a sequence is searched. Lengths count generated tokens: [SEP] is one of them, [CLS] is not."""

    width: int
    """Beams of a sample; 1 is greedy decoding."""
    min_length: int
    """Tokens before [SEP] may come."""
    max_length: int
    """Tokens after which a sequence is taken as it is."""
    start: int
    end: int
    pad: int
    released: bool
    """As the released code: a sample ends when its best beam does, and all its beams count then; a worse beam that has ended counts, and
    goes on past its [SEP] all the same; [CLS] and [PAD] may be said. Else a beam that ends is done, and a sample is searched while a
    living beam could still beat its best finished one."""


@dataclass(frozen=True)
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
        offered = self.ids.clone()
        offered[:, : ids.shape[2]] = ids[torch.arange(len(place), device=place.device), place]
        return Hypotheses(torch.where(better, best, self.scores), torch.where(better[:, None], offered, self.ids))


def length_penalty(length: int) -> float:
    """((5 + length) / 6) ** 0.6; a score is a log-probability over it."""
    return float(((5 + length) / 6) ** LENGTH_POWER)


@torch.no_grad()
def beam_search(next_logits: NextLogits, samples: int, settings: BeamSettings, device: torch.device) -> Hypotheses:
    """The best sequence of each sample."""
    width = settings.width
    ids = torch.full((samples, width, 1), settings.start, dtype=torch.int64, device=device)
    log_p = torch.full((samples, width), -torch.inf, device=device)
    log_p[:, 0] = 0.0
    found = Hypotheses(log_p.new_full((samples,), -torch.inf), ids.new_full((samples, 1 + settings.max_length), settings.pad))
    live = torch.ones(samples, dtype=torch.bool, device=device)
    first_rows = width * torch.arange(samples, device=device)[:, None]
    beam = torch.arange(width, device=device).expand(samples, -1)
    for length in range(1, settings.max_length + 1):
        logits = next_logits(ids[:, :, -1].flatten(), (first_rows + beam).flatten())
        step = _allowed(logits.float().log_softmax(-1), length, settings).unflatten(0, (samples, width))
        log_p, place = (log_p[..., None] + step).flatten(1).topk(width, dim=1)
        beam, token = place // step.shape[-1], place % step.shape[-1]
        ids = torch.cat([ids.gather(1, beam[..., None].expand(-1, -1, length)), token[..., None]], dim=2)
        finished = torch.ones_like(token, dtype=torch.bool) if length == settings.max_length else token == settings.end
        if settings.released:
            finished_best = finished[:, :1]
            counts = (finished | finished_best) & live[:, None]
            found = found.offer((log_p / length_penalty(length)).masked_fill(~counts, -torch.inf), ids)
            live = live & ~finished_best[:, 0]
        else:
            found = found.offer((log_p / length_penalty(length)).masked_fill(~finished, -torch.inf), ids)
            log_p = log_p.masked_fill(finished, -torch.inf)
            # Log-probabilities only fall, so a beam's present one over the largest penalty is a bound.
            live = log_p.amax(1) / length_penalty(settings.max_length) > found.scores
        if not bool(live.any()):
            break
    return found


def _allowed(log_p: torch.Tensor, length: int, settings: BeamSettings) -> torch.Tensor:
    """[rows, vocabulary] without what may not come as token number `length`."""
    if not settings.released:
        log_p[:, [settings.start, settings.pad]] = -torch.inf
    if length <= settings.min_length:
        log_p[:, settings.end] = -1e20 if settings.released else -torch.inf
    return log_p
