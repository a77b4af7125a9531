"""Of backward passes: those of forward passes are held to their formulas in tests/models/test_flops.py."""

from pathlib import Path

import pytest

from benchmarks.flops import SAMPLES, Count, Passes, by_module, counted
from benchmarks.step_cases import StepCase, config_of
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.parallel.topology import StageRoles, make_topology
from tests.ranks import run_ranks


def _counted(config: RunConfig, task: Task) -> dict[str, Passes]:
    return counted(config, task, make_topology(LayoutConfig(), StageRoles(ties=((0, 0), (0, 0)))))


@pytest.mark.parametrize("task", Task)
def test_every_units_backward_is_counted_as_torch_counts_it(task: Task, tmp_path: Path) -> None:
    """The vision embedding's once, since pixels need no gradient; all others twice."""
    config = config_of(StepCase(model="tiny", task=task, samples=SAMPLES, frames=3), tmp_path, Precision.FP32)
    (units,) = run_ranks(1, _counted, config, task)
    assert list(units) == [unit.name for unit in run_chain(config) if not unit.flow(task).idle]
    for name, passes in units.items():
        assert passes.backward.torch == pytest.approx(passes.backward.formula, rel=1e-3), name
        assert passes.backward.formula == passes.forward.formula * (1 if name == "vision.embedding" else 2)


def test_modules_are_sums_of_their_units() -> None:
    units = {name: Passes(forward=Count(number, 2 * number)) for number, name in enumerate(("text.a", "text.b", "heads.c"), 1)}
    assert {name: passes.forward for name, passes in by_module(units).items()} == {
        "text": Count(3, 6),
        "heads": Count(3, 6),
        "all": Count(6, 12),
    }
