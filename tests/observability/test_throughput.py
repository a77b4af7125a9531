"""Rates over the recent past."""

import pytest

from megatron_mplug2.observability.throughput import WINDOW, Throughput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("megatron_mplug2.observability.throughput.time.monotonic", lambda: now[0])
    return now


def test_nothing_yet(clock: list[float]) -> None:
    assert Throughput().per_second == 0.0


def test_the_first_update_counts(clock: list[float]) -> None:
    samples = Throughput()
    clock[0] += 2.0
    samples.add(64)
    assert samples.per_second == 32.0


def test_what_is_long_past_does_not_count(clock: list[float]) -> None:
    samples = Throughput()
    clock[0] += 1000.0
    samples.add(10)
    for _ in range(WINDOW):
        clock[0] += 0.5
        samples.add(10)
    assert samples.per_second == pytest.approx(20.0)
