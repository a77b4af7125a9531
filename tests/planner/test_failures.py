"""Effective training time: the formula against runs that are played through, and the best interval against a search."""

import random

import pytest

from megatron_mplug2.planner.failures import (
    LLAMA_3_NODE_HOURS,
    Reliability,
    best_interval,
    between_failures,
    effective_share,
    young_interval,
)

TOLERANCE = 0.01
"""Of the share; 20,000 checkpoints of one seed differ from the mean by less."""


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


@pytest.mark.parametrize(
    ("reliability", "interval"),
    [
        (Reliability(between_failures=11_000, stall=10, restart=600), 500),
        (Reliability(between_failures=11_000, stall=300, restart=600), 2600),
        (Reliability(between_failures=1000, stall=100, restart=300), 1000),  # failures as often as checkpoints
    ],
)
def test_the_formula_is_what_runs_come_to(reliability: Reliability, interval: float) -> None:
    assert played_share(reliability, interval, checkpoints=20_000, seed=1) == pytest.approx(
        effective_share(reliability, interval), rel=TOLERANCE
    )


def test_a_seed_gives_the_same_run_again() -> None:
    reliability = Reliability(between_failures=1000, stall=10, restart=100)
    first, again, other = (played_share(reliability, 100, checkpoints=500, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("stall", [1, 30, 300, 1500])
def test_the_best_interval_is_what_a_search_finds(stall: float) -> None:
    """In what it gives: within 0.1 % of the best share, 1 % where a checkpoint takes 15 % of the time between failures."""
    reliability = Reliability(between_failures=10_000, stall=stall, restart=600)
    searched = max(effective_share(reliability, interval) for interval in range(10, 20_000, 10))
    assert effective_share(reliability, best_interval(reliability)) >= searched * (1 - (0.001 if stall < 1000 else 0.01))


def test_daly_is_nearer_to_the_best_than_young_where_failures_are_frequent() -> None:
    reliability = Reliability(between_failures=1000, stall=200, restart=100)
    searched = max(range(10, 3000), key=lambda interval: effective_share(reliability, interval))
    assert abs(best_interval(reliability) - searched) < abs(young_interval(reliability) - searched)


def test_young_by_hand() -> None:
    assert young_interval(Reliability(between_failures=20_000, stall=10, restart=0)) == pytest.approx(632.46, abs=0.01)


def test_checkpoints_that_take_as_long_as_nodes_live() -> None:
    reliability = Reliability(between_failures=100, stall=250, restart=10)
    assert best_interval(reliability) == 100
    assert effective_share(Reliability(between_failures=1, stall=60, restart=600), 60) == 0


def test_without_failures_only_the_stall_is_lost() -> None:
    assert effective_share(Reliability(between_failures=1e12, stall=10, restart=600), 90) == pytest.approx(0.9)


def test_more_nodes_fail_more_often() -> None:
    """Llama 3's 2,048 nodes failed every 3.1 hours, and more than 90 % of the time was training: as here, with a restart of 10 minutes."""
    seconds = between_failures(LLAMA_3_NODE_HOURS * 3600, 2048)
    assert seconds / 3600 == pytest.approx(3.09, abs=0.01)
    reliability = Reliability(between_failures=seconds, stall=10, restart=600)
    assert 0.9 < effective_share(reliability, best_interval(reliability)) < 0.93
