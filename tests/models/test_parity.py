"""The modules of training against the released model: every intermediate value, the logits, the loss, on every split of a tensor."""

from functools import cache

import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.config.layout import LayoutConfig
from tests.models.build import LAYOUTS, whole
from tests.models.golden import Released, build_released, from_released, load, model_config, run
from tests.ranks import run_ranks
from tests.shared import needs_shared

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-12
"""Relative, in fp64."""
CASES = [(kind, name) for kind in Released for name in LAYOUTS]
SPLIT = [case for case in CASES if case[1] != "TP1"]


def _forward(kind: Released, layout: LayoutConfig) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return run(kind, build_released(kind, layout)).values


def _gradients(kind: Released, layout: LayoutConfig) -> dict[str, torch.Tensor]:
    """d loss / d weight, unsharded, after the reduction that Megatron-Core's finalize does; in fp64, so that only defects show."""
    built = build_released(kind, layout, torch.float64)
    run(kind, built).loss.backward()
    gradients = {}
    for weight in built.weights:
        gradient = weight.param.grad
        if gradient is None:
            continue
        if getattr(weight.param, "sequence_parallel", False):
            dist.all_reduce(gradient, group=built.topology.tensor_group)
        gradients[weight.name] = whole(gradient, weight, built.topology)
    return gradients


@cache
def _whole_gradients(kind: Released) -> dict[str, torch.Tensor]:
    return run_ranks(1, _gradients, kind, LAYOUTS["TP1"])[0]


@needs_shared
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_the_released_model(kind: Released, name: str) -> None:
    layout = LAYOUTS[name]
    expected = load(kind)["out"]
    names = {name for name in expected if not name.startswith("beam")}
    for values in run_ranks(layout.world_size, _forward, kind, layout):
        assert values.keys() == names
        errors = {name: float((values[name] - expected[name]).abs().max()) for name in names}
        assert max(errors.values()) <= TOLERANCE, errors


@needs_shared
@pytest.mark.parametrize(("kind", "name"), SPLIT)
def test_gradients_do_not_depend_on_the_split(kind: Released, name: str) -> None:
    layout, expected = LAYOUTS[name], _whole_gradients(kind)
    for gradients in run_ranks(layout.world_size, _gradients, kind, layout):
        assert gradients.keys() == expected.keys()
        errors = {name: float((gradients[name] - full).norm() / full.norm()) for name, full in expected.items()}
        assert max(errors.values()) <= GRADIENT_TOLERANCE, {name: error for name, error in errors.items() if error > GRADIENT_TOLERANCE}


@needs_shared
def test_every_released_weight_reaches_the_loss() -> None:
    """Else the comparison above would compare less than all."""
    weights, _ = from_released(load(Released.VQA)["state_dict"], model_config(Released.VQA))
    gradients = _whole_gradients(Released.VQA)
    assert gradients.keys() == weights.keys()
    assert all(float(gradient.norm()) > 0 for gradient in gradients.values())
