"""Rates by size, and which of a machine's count."""

from dataclasses import replace

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.errors import UserError
from megatron_mplug2.planner.collectives import data_group, stage_message, tensor_group
from megatron_mplug2.planner.hardware import Cluster
from megatron_mplug2.planner.rates import Curve, level
from tests.planner.machine import ALONE, MEASURED, PROFILE, SEQUENCE, SPLIT, TOGETHER

CLUSTER = Cluster(gpu=PROFILE.gpu(), gpus=2, node=2)


def test_a_rate_between_measured_sizes_by_hand() -> None:
    curve = Curve(((1e6, 10.0), (1e8, 40.0)))
    assert [curve.at(size) for size in (0, 1e3, 1e6, 1e7, 1e8, 1e12)] == pytest.approx([10, 10, 10, 20, 40, 40])
    assert level(3.0).at(0) == level(3.0).at(1e30) == 3


def test_ranks_that_share_a_machine_have_its_rates_for_so_many() -> None:
    assert CLUSTER.gpu.rates(Precision.FP32, 1, LayoutConfig()) is ALONE
    assert CLUSTER.gpu.rates(Precision.FP32, 2, LayoutConfig(data=2)) is TOGETHER


def test_split_layers_have_rates_of_their_own() -> None:
    tensor, sequence = LayoutConfig(tensor=2), LayoutConfig(tensor=2, sequence_parallel=True)
    assert CLUSTER.gpu.rates(Precision.FP32, 2, tensor) is SPLIT
    assert CLUSTER.gpu.rates(Precision.FP32, 2, sequence) is SEQUENCE
    assert replace(MEASURED, split={}, sequence={}).rates_of(tensor) is MEASURED.rates


def test_more_ranks_than_cores_were_not_measured() -> None:
    with pytest.raises(UserError, match=r"^two cores was measured with up to 2 ranks at work, not with 4: "):
        CLUSTER.gpu.rates(Precision.FP32, 4, LayoutConfig(data=4))


def test_another_precision_was_not_measured() -> None:
    with pytest.raises(UserError, match=r"^two cores was measured in fp32, the config has training\.precision=bf16: "):
        CLUSTER.gpu.rates(Precision.BF16, 1, LayoutConfig())


def test_measured_exchanges_by_hand() -> None:
    tensor, data = LayoutConfig(tensor=2), LayoutConfig(data=2)
    assert tensor_group(tensor, CLUSTER).all_reduce(1e6) == pytest.approx(1e-3)
    assert data_group(data, CLUSTER).reduce_scatter(1e3) == pytest.approx(1e-4)
    assert data_group(data, CLUSTER).all_gather(2e6) == pytest.approx(2e-3)
    assert tensor_group(data, CLUSTER).all_reduce(1e6) == 0
    pipeline = LayoutConfig(pipeline=2)
    assert stage_message(pipeline, CLUSTER, 0, 1e6) == pytest.approx(1e-3) and stage_message(pipeline, CLUSTER, 0, 0) == 0
