"""Canonical weights: the same names, sizes and initial values whatever the layout."""

import math

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.models.initialise import initialise
from tests.models.build import LAYOUTS, build, whole
from tests.models.test_universal import MODEL, TEXT
from tests.ranks import run_ranks

TEMPERATURE = 0.07


def _initial(layout: LayoutConfig, seed: int) -> dict[str, torch.Tensor]:
    built = build(MODEL, layout)
    for weight in built.weights:
        torch.nn.init.constant_(weight.param, 9.0)
    initialise(built.weights, MODEL, TEMPERATURE, seed, built.topology)
    values = {weight.name: whole(weight.param.detach(), weight, built.topology) for weight in built.weights}
    assert len(values) == len(built.weights)
    assert all(tuple(values[weight.name].shape) == weight.full_size for weight in built.weights)
    return values


@pytest.mark.parametrize("name", ["TP2", "TP2+SP"])
def test_initial_weights_do_not_depend_on_the_layout(name: str) -> None:
    (expected,) = run_ranks(1, _initial, LAYOUTS["TP1"], 0)
    for values in run_ranks(2, _initial, LAYOUTS[name], 0):
        assert values.keys() == expected.keys()
        assert all(torch.equal(values[key], expected[key]) for key in expected)


def test_the_seed_changes_every_drawn_weight() -> None:
    first, second = (run_ranks(1, _initial, LAYOUTS["TP1"], seed)[0] for seed in (0, 1))
    equal = {key for key in first if torch.equal(first[key], second[key])}
    fixed = {key for key in first if "norm." in key or (".temporal." not in key and key.endswith("bias"))}
    up = {key for key in first if ".temporal." in key and ".up." in key}
    assert equal == fixed | up | {"heads.contrast.log_temperature"}
    drawn = [value.flatten()[:2].tolist() for key, value in first.items() if key not in equal]
    assert len({tuple(pair) for pair in drawn}) == len(drawn)  # no two weights alike


def test_initial_distributions() -> None:
    (values,) = run_ranks(1, _initial, LAYOUTS["TP1"], 0)
    assert float(values["heads.contrast.log_temperature"].exp()) == pytest.approx(TEMPERATURE)
    assert float(values["text.layers.0.mlp.linear_fc1.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert float(values["universal.layers.0.queries"].std()) == pytest.approx(1.0, rel=0.15)
    for key, value in values.items():
        if "norm.weight" in key:
            assert bool((value == 1).all()), key
        if "norm.bias" in key or ".up." in key:
            assert not value.any(), key
    bottleneck = MODEL.vision.width // 2
    bounds = {"taps": 3, "taps_bias": 3, "down.weight": 2 * bottleneck, "down.bias": 2 * bottleneck}
    for part, fan_in in bounds.items():
        bound = 1 / math.sqrt(fan_in)
        assert 0.8 * bound < float(values[f"vision.blocks.0.temporal.0.{part}"].abs().max()) <= bound


def _shards(layout: LayoutConfig) -> list[tuple[str, tuple[int, ...], int | None]]:
    built = build(MODEL, layout)
    for weight in built.weights:
        full = torch.randn(weight.full_size)
        if weight.partition_dim is not None:
            start = built.topology.tensor_rank * weight.param.shape[weight.partition_dim]
            shard = weight.shard_of(full, built.topology)
            length = min(shard.shape[weight.partition_dim], max(0, full.shape[weight.partition_dim] - start))
            kept = shard.narrow(weight.partition_dim, 0, length)
            assert torch.equal(kept, full.narrow(weight.partition_dim, min(start, full.shape[weight.partition_dim]), length))
            assert float(shard.abs().sum()) == pytest.approx(float(kept.abs().sum()))
    return [(weight.name, weight.full_size, weight.partition_dim) for weight in built.weights]


def test_names_and_sizes_do_not_depend_on_the_layout() -> None:
    expected = run_ranks(1, _shards, LAYOUTS["TP1"])[0]
    names = [name for name, _, _ in expected]
    assert len(set(names)) == len(names)
    assert ("text.embedding.word.weight", (TEXT.vocab_size, TEXT.hidden), 0) in expected
    for name in ("TP2", "TP2+SP"):
        assert run_ranks(2, _shards, LAYOUTS[name]) == [expected, expected]
