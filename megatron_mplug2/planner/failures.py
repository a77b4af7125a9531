"""How much of a long run's time is training, where nodes fail: the best interval between checkpoints, and what is lost all the same.

Failures come at random, at a constant rate; each costs the work since the last checkpoint and a restart. What a checkpoint writes in the
background after its stall is lost too where a failure comes before it is done: add that time to the restart.
"""

import math
from dataclasses import dataclass

LLAMA_3_NODE_HOURS = 54 * 24 * 2048 / 419
"""Mean hours between failures of a node of 8 H100s, 6,335: 419 unexpected interruptions in 54 days on 16,384 GPUs. Llama 3 (Grattafiori
et al. 2024, arXiv 2407.21783), section 3.3.4."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Seconds."""

    between_failures: float
    """Mean, of all nodes together: any one's failure stops the run."""
    stall: float
    """In which a checkpoint keeps the run from training."""
    restart: float
    """From a failure until the run trains on, from the last checkpoint. A failure in it begins it anew."""


def between_failures(node_seconds: float, nodes: int) -> float:
    """Mean seconds until one of the nodes fails; they fail independently."""
    return node_seconds / nodes


def effective_share(reliability: Reliability, interval: float) -> float:
    """Share of the time that goes into steps which stay, where a checkpoint follows every `interval` seconds of training.

    Exact for exponentially distributed failures, which may hit training, checkpoint and restart alike: Daly 2006 (A higher order estimate
    of the optimum checkpoint interval for restart dumps), equation 20. 0 where the run would hardly ever come to its next checkpoint.
    """
    mean = reliability.between_failures
    exponent = (interval + reliability.stall) / mean
    if exponent + reliability.restart / mean > math.log(1e15):
        return 0.0
    return interval / (mean * math.exp(reliability.restart / mean) * math.expm1(exponent))


def young_interval(reliability: Reliability) -> float:
    """Seconds of training between checkpoints that lose least, to first order: sqrt(2 stall M). Young 1974 (A first order approximation to
    the optimum checkpoint interval)."""
    return math.sqrt(2 * reliability.stall * reliability.between_failures)


def best_interval(reliability: Reliability) -> float:
    """The same to a higher order, close also where failures come nearly as often as checkpoints: Daly 2006, equation 37."""
    stall, mean = reliability.stall, reliability.between_failures
    if stall >= 2 * mean:
        return mean
    part = stall / (2 * mean)
    return young_interval(reliability) * (1 + math.sqrt(part) / 3 + part / 9) - stall
