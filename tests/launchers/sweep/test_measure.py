"""From run folders to figures."""

import time
from pathlib import Path

import pytest

from launchers.sweep.hosts import HOSTS, Host, Watch, machines_of
from launchers.sweep.measure import NotMeasuredError, measure
from launchers.sweep.points import Point
from tests.launchers.sweep.sweeps import WARMUP, host_of, sweep_of, write_run


@pytest.fixture
def point(tmp_path: Path) -> Point:
    return sweep_of(tmp_path, data=[2]).points[0]


def test_medians_over_the_steps_after_the_warm_up(point: Point) -> None:
    write_run(point, step_s=1.0)
    found = measure(point.run, WARMUP)
    assert found.steps == 4
    assert (found.step_s.low, found.step_s.median, found.step_s.high) == pytest.approx((1.0275, 1.035, 1.0425))
    assert found.samples_per_s == pytest.approx(32 / 1.035)
    assert list(found.sections) == ["meeting", "forward-backward", "gradient reduction", "optimizer"]
    assert found.sections["forward-backward"].median == pytest.approx(0.7 * 1.035)
    assert found.communication == pytest.approx(0.2)
    assert found.mfu is None and found.tflops == 0.5
    assert found.memory_gb == 1.1, "the most of any step, the warm-up too"


def test_a_run_that_was_started_again_warms_up_again(point: Point) -> None:
    write_run(point, step_s=1.0)
    write_run(point, step_s=2.0, begin=3)
    found = measure(point.run, WARMUP)
    assert found.steps == 1 and found.step_s.median == pytest.approx(2.1)
    write_run(point, step_s=2.0, begin=5)
    with pytest.raises(NotMeasuredError, match="started again 1 steps before its end, all of them warm-up"):
        measure(point.run, WARMUP)


def test_a_record_that_is_not_whole_gives_no_figures(point: Point) -> None:
    with pytest.raises(NotMeasuredError, match="its record tells of no end"):
        measure(point.run, WARMUP)
    write_run(point)
    path = point.run.run_dir / "metrics.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"step": 4' not in line))
    with pytest.raises(NotMeasuredError, match="3 of its 4 steps after the warm-up are in its record"):
        measure(point.run, WARMUP)
    write_run(point)
    (point.run.run_dir / HOSTS / "1.json").unlink()
    with pytest.raises(NotMeasuredError, match="not every rank has told"):
        measure(point.run, WARMUP)


def host(machine: str, *cores: int, threads: int = 1, gpu: str | None = None) -> Host:
    return host_of(machine, cores, threads=threads, gpu=gpu)


@pytest.mark.parametrize(
    ("hosts", "count", "cores", "shared"),
    [
        ([host("a", 0, 1), host("a", 0, 1)], 1, 2, False),
        ([host("a", 0, 1), host("a", 0, 1), host("a", 0, 1)], 1, 2, True),
        ([host("a", 0), host("a", 1)], 1, 2, False),  # each bound to a core of its own
        ([host("a", 0), host("a", 0)], 1, 1, True),
        ([host("a", 0, 1, threads=2), host("b", 0, 1, threads=2)], 2, 2, False),
        ([host("a", 0, 1, threads=2), host("a", 0, 1)], 1, 2, True),
        ([host("a", 0, gpu="H200"), host("a", 0, gpu="H200")], 1, 1, False),
    ],
)
def test_ranks_against_the_cores_of_their_machine(hosts: list[Host], count: int, cores: int, shared: bool) -> None:
    found = machines_of(hosts)
    assert (found.count, found.cores, found.oversubscribed) == (count, cores, shared)
    assert found.device == (hosts[0].gpu or "a processor")


@pytest.mark.parametrize(("others", "disturbed"), [(0.2, False), (0.6, False), (1.4, True)])
def test_others_that_work_on_the_machine_are_seen(others: float, disturbed: bool) -> None:
    """A rank on two cores, of which it needs one."""
    found = machines_of([host_of("a", (0, 1), machine_s=10 * (1 + others))])
    assert found.others == pytest.approx(others)
    assert found.disturbed is disturbed and not found.oversubscribed


def test_a_rank_tells_of_its_machine_and_its_work() -> None:
    watch = Watch()
    begin = time.process_time()
    while time.process_time() - begin < 0.1:
        pass
    first, second = watch.host(1, None), watch.host(2, None)
    assert first.machine == second.machine and first.cores and first.processor
    assert 0.09 < first.own_s <= second.own_s and first.machine_s > 0.05, "ticks of the machine's clock are coarse"
