"""The released code's beam search, token for token, and what it does to texts before and after."""

import re

import torch

from megatron_mplug2.evaluation.generation.hypotheses import Beams, Hypotheses, NextLogits, length_penalty
from megatron_mplug2.evaluation.generation.settings import Bounds

CAPTION_PROMPT = "a video of"  # [CODE] its captions are taught behind it, without a space between
QUESTION_WORDS = 50  # [CODE] of a question in a test
_DROPPED, _SPACED = re.compile(r"""[,.'!?"()*#:;~]"""), re.compile(r"[-/]")  # [CODE]
_NEVER = -1e20  # [CODE] the log-probability of [SEP] before it may come


@torch.no_grad()
def released_search(next_logits: NextLogits, samples: int, width: int, bounds: Bounds, device: torch.device) -> Hypotheses:
    """The best sequence of each sample [CODE, reference 4.4].

    A sample ends when its best beam ends, whatever the others could still become. Another beam's [SEP] makes it a finished sequence too,
    but it goes on behind it and may be one again. Any token may be generated, [CLS] and [PAD] too.
    """
    beams, best = Beams.first(samples, width, bounds, device), Hypotheses.none(samples, bounds, device)
    going = torch.ones(samples, 1, dtype=torch.bool, device=device)
    for length in range(1, bounds.max_length + 1):
        step = beams.continuations(next_logits)
        if length <= bounds.min_length:
            step[..., bounds.end] = _NEVER
        penalty = length_penalty(length)
        scores, place = ((beams.log_p[..., None] + step) / penalty).flatten(1).topk(width, dim=1)
        beams = beams.extended(scores * penalty, place, step.shape[-1])
        finished = (beams.last == bounds.end) | (length == bounds.max_length)
        best = best.offer(scores.masked_fill(~(finished & going), -torch.inf), beams.ids)
        going &= ~finished[:, :1]
        if not bool(going.any()):
            break
    return best


def released_question(text: str) -> str:
    """Lower-case, without punctuation, its first 50 words."""
    return " ".join(_SPACED.sub(" ", _DROPPED.sub("", text.lower())).split()[:QUESTION_WORDS])


def released_caption(text: str) -> str:
    """What stands behind the last prompt in a generated text."""
    return text.split(CAPTION_PROMPT)[-1].strip()
