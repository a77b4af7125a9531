"""What calibrations measure with: worlds of ranks, as many runs on all of them, and every exchange between them."""

import time

import pytest
import torch.distributed as dist

from benchmarks import exchange_speed
from benchmarks.quickest import LEAST_RUNS, quickest
from benchmarks.ranks import run_ranks
from megatron_mplug2.planner.rates import Exchange


def place() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


@pytest.mark.parametrize(("world", "places"), [(None, [(0, 4), (1, 4), (2, 4), (3, 4)]), (2, [(0, 2), (1, 2)] * 2), (1, [(0, 1)] * 4)])
def test_ranks_are_of_one_world_or_of_several(world: int | None, places: list[tuple[int, int]]) -> None:
    assert run_ranks(4, place, world=world) == places


def runs() -> int:
    """Of work that takes one rank longer than the other."""
    made = 0

    def work() -> None:
        nonlocal made
        made += 1
        time.sleep(0.02 * dist.get_rank())

    quickest(work)
    return made


def test_ranks_make_as_many_runs() -> None:
    first, second = run_ranks(2, runs)
    assert first == second > LEAST_RUNS


def test_every_exchange_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_speed, "SIZES", (1 << 10, 1 << 22))
    monkeypatch.setattr(exchange_speed, "LENGTHS", (2, 1))
    for curves in run_ranks(2, exchange_speed.measure_exchanges):
        assert curves.keys() == set(Exchange)
        assert all(rate > 0 for curve in curves.values() for _, rate in curve.points)
