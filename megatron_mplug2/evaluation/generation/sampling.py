"""Drawn sequences. A draw is a pure function of its key: not of the batch, the rank, or what else is drawn."""

import hashlib
from collections.abc import Sequence

import torch

from megatron_mplug2.evaluation.generation.hypotheses import Hypotheses, NextLogits, length_penalty
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding
from megatron_mplug2.objectives.keyed_noise import gumbel


def draw_key(sample: int, asked: str) -> int:
    """int64 key of what is said of a sample (which any number may name) when it is asked this."""
    return int.from_bytes(hashlib.blake2b(f"{sample}/{asked}".encode(errors="replace"), digest_size=8).digest(), "little", signed=True)


@torch.no_grad()
def draw(next_logits: NextLogits, keys: Sequence[int], decoding: Decoding, bounds: Bounds, device: torch.device) -> Hypotheses:
    """A sequence for each key (see `draw_key`), with its score by the model's own probabilities.

    Each token is the highest of its log-probabilities with Gumbel noise. [CLS] and [PAD] are never drawn.
    """
    key = torch.tensor(keys, dtype=torch.int64, device=device)
    samples, rows = len(key), torch.arange(len(key), device=device)
    ids = torch.full((samples, 1), bounds.start, dtype=torch.int64, device=device)
    log_p, done = torch.zeros(samples, device=device), Hypotheses.none(samples, bounds, device)
    for length in range(1, bounds.max_length + 1):
        logits = next_logits(ids, rows).float()
        logits[:, [bounds.start, bounds.pad]] = -torch.inf
        if length <= bounds.min_length:
            logits[:, bounds.end] = -torch.inf
        kept = _likeliest((logits / decoding.temperature).log_softmax(-1), decoding.top_p)
        token = (kept + gumbel(decoding.seed, key[:, None], length, torch.arange(kept.shape[1], device=device))).argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        log_p = log_p + logits.log_softmax(-1)[rows, token]
        finished = ((token == bounds.end) | (length == bounds.max_length)) & done.scores.isneginf()
        scores = (log_p / length_penalty(length)).masked_fill(~finished, -torch.inf)
        done = done.offer(scores[:, None], ids[:, None])
        if bool(done.scores.isfinite().all()):
            break
    return done


def _likeliest(log_p: torch.Tensor, top_p: float) -> torch.Tensor:
    """[n, vocabulary] with -inf for all but the fewest likeliest tokens whose probability together is `top_p` or more."""
    if top_p == 1.0:
        return log_p
    ordered, place = log_p.sort(dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return torch.full_like(log_p, -torch.inf).scatter(-1, place, ordered.masked_fill(before >= top_p, -torch.inf))
