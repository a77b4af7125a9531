"""Step times from measured rates: units by hand, and what a calibration would find again."""

import pytest

from benchmarks.explained import rates_of
from benchmarks.rank_speed import SAMPLES, Found, Pass, model_of_width, widths
from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.models.flops import Attention, Product
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.stage_times import StageTimes, UnitWork, training_times, unit_work_of
from megatron_mplug2.planner.step_time import updated_bytes
from tests.planner.machine import ALONE, FORWARD, PROFILE


def test_a_units_seconds_by_hand() -> None:
    """A product of 2e8 operations, split over two ranks, and attention of 4 sequences."""
    work = UnitWork(pieces=(Product(1000, 100, 1000), Attention(4, 10, 10, 100)), kept=2e6, launches=3)
    assert work.products(FORWARD, 2) == pytest.approx(1e8 / 40e9 + 80e3 / 20e9)
    assert work.seconds(FORWARD, 2) == pytest.approx(work.products(FORWARD, 2) + 2e6 / 2e9 + 3 * 50e-6)


def test_sublayers_are_counted() -> None:
    config = model_of_width(96)
    shape = batch_shape(config, Task.VIDEO_TEXT, samples=SAMPLES, frames=4, resolution=32)
    launches = {unit.name: unit_work_of(unit, shape, config).launches for unit in run_chain(config)}
    assert launches["text.layers.0"] == 1 + 2 and launches["fusion.layers.0"] == 1 + 3 and launches["heads.matching"] == 1


def times_of(config: RunConfig, task: Task) -> StageTimes:
    phase = config.schedule[-1]
    shape = batch_shape(config, task, samples=SAMPLES, frames=phase.frames, resolution=phase.resolution)
    return training_times(config, Cluster(gpu=PROFILE.gpu(), gpus=1, node=1), make_partition(config), shape)


def test_a_calibration_finds_the_rates_that_passes_were_made_with() -> None:
    forward, backward, updates = [], [], []
    for width in widths():
        config = model_of_width(width)
        weights = stage_weights(config.model, make_partition(config), 0)
        size = updated_bytes(config, sum(rank_elements(weight, 1) for weight in weights))
        updates.append((width, size / ALONE.memory + len(weights) * ALONE.tensor))
        for task in (Task.TEXT, Task.VIDEO_TEXT):
            times = times_of(config, task)
            forward.append(Pass(width=width, task=task, seconds=times.forward[0].total))
            backward.append(Pass(width=width, task=task, seconds=times.backward[0].total))
    found = rates_of(
        Found(
            products=(ALONE.forward.products, ALONE.backward.products),
            attention=(ALONE.forward.attention, ALONE.backward.attention),
            forward=tuple(forward),
            backward=tuple(backward),
            updates=tuple(updates),
        )
    )
    assert found.memory == pytest.approx(ALONE.memory) and found.tensor == pytest.approx(ALONE.tensor)
    for there, made in ((found.forward, ALONE.forward), (found.backward, ALONE.backward)):
        assert (there.elementwise, there.launch) == pytest.approx((made.elementwise, made.launch))
