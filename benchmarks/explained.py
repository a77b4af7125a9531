"""What a machine's rates must be for whole models' passes and updates to take as long as they did."""

from collections.abc import Sequence

import numpy as np

from benchmarks.rank_speed import SAMPLES, Found, Pass, model_of_width
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


def rates_of(found: Found) -> Rates:
    """What explains the passes best."""
    per_byte, tensor = _explained([_update(width, seconds) for width, seconds in found.updates])
    memory = 1 / per_byte
    ways = []
    for way, passes in enumerate((found.forward, found.backward)):
        known = PassRates(products=found.products[way], attention=found.attention[way], elementwise=NEVER, launch=0.0)
        per_kept, launch = _explained([_left(one, known, memory if way else None) for one in passes])
        ways.append(PassRates(products=known.products, attention=known.attention, elementwise=1 / per_kept, launch=launch))
    return Rates(forward=ways[0], backward=ways[1], memory=memory, tensor=tensor)


def _update(width: int, seconds: float) -> Row:
    config = model_of_width(width)
    weights = stage_weights(config.model, make_partition(config), 0)
    return updated_bytes(config, sum(rank_elements(weight, 1) for weight in weights)), len(weights), seconds, seconds


def _left(one: Pass, known: PassRates, memory: float | None) -> Row:
    """`memory`: of a backward pass, whose units have parts and gradient buffers."""
    config = model_of_width(one.width)
    phase = config.schedule[-1]
    shape = batch_shape(config, one.task, samples=SAMPLES, frames=phase.frames, resolution=phase.resolution)
    parts = backward_parts(config, one.task)
    kept, launches, left = 0.0, 0.0, one.seconds
    for unit in run_chain(config):
        work, times = unit_work_of(unit, shape, config), 1 if memory is None else parts[unit.name]
        kept, launches = kept + times * work.kept, launches + times * work.launches
        left -= times * work.products(known, 1)
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
