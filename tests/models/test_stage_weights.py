"""Planned weights of every stage against those that its ranks make."""

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.build import build_stage
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.parallel.topology import make_topology
from tests.ranks import run_ranks
from tests.training import cases


def _made(config: RunConfig) -> tuple[int, list[tuple[str, bool, int]]]:
    partition = make_partition(config)
    topology = make_topology(config.layout, partition.roles)
    weights = build_stage(config, partition, topology).weights
    return topology.pipeline_rank, [(weight.name, weight.saves, weight.param.numel()) for weight in weights]


@pytest.mark.parametrize(
    "layout",
    [LayoutConfig(), LayoutConfig(tensor=2, pipeline=2, stage_starts=(9,)), LayoutConfig(pipeline=4, stage_starts=(6, 9, 15))],
    ids=["one", "tp2-pp2", "pp4-both-ties"],
)
def test_planned_weights_are_those_of_the_ranks(layout: LayoutConfig) -> None:
    config = cases.config(layout)
    for stage, made in run_ranks(layout.world_size, _made, config):
        planned = stage_weights(config.model, make_partition(config), stage)
        assert sorted((weight.name, weight.saves, rank_elements(weight, layout.tensor)) for weight in planned) == sorted(made)
