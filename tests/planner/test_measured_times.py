"""Step times from measured rates: units by hand, and what a calibration would find again."""

import pytest

from benchmarks.explained import rates_of
from benchmarks.pass_speed import SAMPLES, Layers, Pass, Passes, Update, model_of_width, widths
from benchmarks.rank_speed import Kernels
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.flops import Attention, Product
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.rates import Rates, level
from megatron_mplug2.planner.stage_times import Seconds, StageTimes, UnitWork, training_times, unit_work_of
from megatron_mplug2.planner.step_time import updated_bytes
from tests.planner.machine import ALONE, FORWARD, PROFILE, SEQUENCE, SPLIT


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
    phase, ranks = config.schedule[-1], config.layout.world_size
    shape = batch_shape(config, task, samples=SAMPLES, frames=phase.frames, resolution=phase.resolution)
    return training_times(config, Cluster(gpu=PROFILE.gpu(), gpus=ranks, node=ranks), make_partition(config), shape)


@pytest.mark.parametrize(("layers", "made"), [(Layers.WHOLE, ALONE), (Layers.SPLIT, SPLIT), (Layers.SEQUENCE, SEQUENCE)])
def test_a_calibration_finds_the_rates_that_passes_were_made_with(layers: Layers, made: Rates) -> None:
    forward, backward, updates = [], [], []
    for width in widths():
        config = model_of_width(width, layers)
        weights = stage_weights(config.model, make_partition(config), 0)
        size = updated_bytes(config, sum(rank_elements(weight, config.layout.tensor) for weight in weights))
        updates.append(Update(width=width, seconds=size / made.memory + len(weights) * made.tensor))
        for task in (Task.TEXT, Task.VIDEO_TEXT):
            times = times_of(config, task)
            forward.append(Pass(width=width, task=task, seconds=own_seconds(times.forward[0])))
            backward.append(Pass(width=width, task=task, seconds=own_seconds(times.backward[0])))
    own, others = (made.forward.products, made.backward.products), (level(1.0), level(1.0))
    found = rates_of(
        Kernels(
            products=own if layers is Layers.WHOLE else others,
            split_products=others if layers is Layers.WHOLE else own,
            attention=(made.forward.attention, made.backward.attention),
        ),
        Passes(layers=layers, forward=tuple(forward), backward=tuple(backward), updates=tuple(updates)),
    )
    assert found.memory == pytest.approx(made.memory) and found.tensor == pytest.approx(made.tensor)
    for there, way in ((found.forward, made.forward), (found.backward, made.backward)):
        assert (there.elementwise, there.launch) == pytest.approx((way.elementwise, way.launch))


def own_seconds(times: Seconds) -> float:
    """What a calibration measures of ranks that share layers."""
    return times.total - times.tensor
