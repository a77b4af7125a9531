"""What a machine's rates must be for whole models' passes and updates to take as long as they did."""

from collections.abc import Sequence

import numpy as np

from benchmarks.pass_speed import SAMPLES, Layers, Pass, Passes, Update, model_of_width
from benchmarks.rank_speed import Kernels
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.models.workload import backward_parts
from megatron_mplug2.planner.rates import PassRates, Rates
from megatron_mplug2.planner.stage_times import gradient_bytes, unit_work_of
from megatron_mplug2.planner.step_time import updated_bytes

NEVER = 1e18
"""A rate at which nothing takes time."""

Row = tuple[float, float, float, float]
"""Bytes, launches, the seconds that they have to explain, and those of which these are a part."""


def rates_of(kernels: Kernels, found: Passes) -> Rates:
    """What explains the passes best, their products and attention as quick as the kernels."""
    configs = {one.width: model_of_width(one.width, found.layers) for one in found.updates}
    per_byte, tensor = _explained([_update(configs[one.width], one) for one in found.updates])
    memory = 1 / per_byte
    products = kernels.products if found.layers is Layers.WHOLE else kernels.split_products
    ways = []
    for way, passes in enumerate((found.forward, found.backward)):
        known = PassRates(products=products[way], attention=kernels.attention[way], elementwise=NEVER, launch=0.0)
        per_kept, launch = _explained([_left(configs[one.width], one, known, memory if way else None) for one in passes])
        ways.append(PassRates(products=known.products, attention=known.attention, elementwise=1 / per_kept, launch=launch))
    return Rates(forward=ways[0], backward=ways[1], memory=memory, tensor=tensor)


def _update(config: RunConfig, one: Update) -> Row:
    weights = stage_weights(config.model, make_partition(config), 0)
    elements = sum(rank_elements(weight, config.layout.tensor) for weight in weights)
    return updated_bytes(config, elements), len(weights), one.seconds, one.seconds


def _left(config: RunConfig, one: Pass, known: PassRates, memory: float | None) -> Row:
    """`memory`: of a backward pass, whose units have parts and gradient buffers."""
    phase = config.schedule[-1]
    shape = batch_shape(config, one.task, samples=SAMPLES, frames=phase.frames, resolution=phase.resolution)
    parts = backward_parts(config, one.task)
    kept, launches, left = 0.0, 0.0, one.seconds
    for unit in run_chain(config):
        work, times = unit_work_of(unit, shape, config), 1 if memory is None else parts[unit.name]
        kept, launches = kept + times * work.kept, launches + times * work.launches
        left -= times * work.products(known, config.layout.tensor)
        if memory is not None and work.launches:
            left -= gradient_bytes(unit, config) / memory
    return kept, launches, left, one.seconds


def _explained(rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds a byte and a launch with the least squares of errors as shares of the whole; neither less than nothing."""
    matrix = np.array([(size / whole, count / whole) for size, count, _, whole in rows])
    wanted = np.array([seconds / whole for _, _, seconds, whole in rows])
    both = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    if both[0] <= 0 or both[1] < 0:
        alone = [max(0.0, float(matrix[:, one] @ wanted / (matrix[:, one] @ matrix[:, one]))) for one in (0, 1)]
        errors = [float(np.sum((matrix[:, one] * alone[one] - wanted) ** 2)) for one in (0, 1)]
        both = (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])
    return max(float(both[0]), 1 / NEVER), float(both[1])
