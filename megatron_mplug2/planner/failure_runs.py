"""Runs with failures played through with random numbers: what `failures` is checked against."""

import random

from megatron_mplug2.planner.failures import Reliability


def played_share(reliability: Reliability, interval: float, checkpoints: int, seed: int) -> float:
    """Share of the time that went into training in a run of so many checkpoints, `interval` seconds of training apart."""
    draw = random.Random(seed)
    spent = sum(_until_checkpoint(reliability, interval + reliability.stall, draw) for _ in range(checkpoints))
    return checkpoints * interval / spent


def _until_checkpoint(reliability: Reliability, needed: float, draw: random.Random) -> float:
    """Seconds until a checkpoint is there, from the one before it."""
    rate, spent = 1 / reliability.between_failures, 0.0
    while (failure := draw.expovariate(rate)) < needed:
        spent += failure + _restart(reliability, draw)
    return spent + needed


def _restart(reliability: Reliability, draw: random.Random) -> float:
    spent = 0.0
    while (failure := draw.expovariate(1 / reliability.between_failures)) < reliability.restart:
        spent += failure
    return spent + reliability.restart
