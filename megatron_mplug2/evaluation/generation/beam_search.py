"""Beam search over a function that gives the logits of the next token."""

from dataclasses import replace

import torch

from megatron_mplug2.evaluation.generation.hypotheses import Beams, Hypotheses, NextLogits, length_penalty
from megatron_mplug2.evaluation.generation.settings import Bounds


@torch.no_grad()
def beam_search(next_logits: NextLogits, samples: int, width: int, bounds: Bounds, device: torch.device) -> Hypotheses:
    """The best sequence of each sample: each step keeps the `width` best continuations, and those that end are done.

    A sample goes on while a living beam could still beat its best finished one (log-probabilities only fall, so a beam's present one
    over the largest penalty is a bound). What lives at the maximum length counts as finished. [CLS] and [PAD] are never generated. A
    pure function of the logits: all tensor-parallel ranks, whose logits are equal, find the same. A width of 1 is greedy.
    """
    beams, done = Beams.first(samples, width, bounds, device), Hypotheses.none(samples, bounds, device)
    for length in range(1, bounds.max_length + 1):
        step = beams.continuations(next_logits)
        step[..., [bounds.start, bounds.pad]] = -torch.inf
        if length <= bounds.min_length:
            step[..., bounds.end] = -torch.inf
        log_p, place = (beams.log_p[..., None] + step).flatten(1).topk(width, dim=1)
        beams = beams.extended(log_p, place, step.shape[-1])
        finished = (beams.last == bounds.end) | (length == bounds.max_length)
        done = done.offer((log_p / length_penalty(length)).masked_fill(~finished, -torch.inf), beams.ids)
        beams = replace(beams, log_p=log_p.masked_fill(finished, -torch.inf))
        if bool((beams.log_p.amax(1) / length_penalty(bounds.max_length) <= done.scores).all()):
            break
    return done
