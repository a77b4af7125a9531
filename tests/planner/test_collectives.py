"""Rings by hand, and where a layout's groups lie on the nodes."""

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.planner.collectives import LINK_SHARE, data_group, message_seconds, stage_link, tensor_group
from megatron_mplug2.planner.hardware import NDR, NETWORK_HOP, NVLINK_4, NVLINK_HOP, RING_LATENCY
from tests.planner.runs import cluster

LAYOUT = LayoutConfig(tensor=4, pipeline=2, data=8, sequence_parallel=True)
CLUSTER = cluster(64)


def test_a_ring_inside_a_node_by_hand() -> None:
    group = tensor_group(LAYOUT, CLUSTER)
    assert (group.size, group.in_node, group.nodes) == (4, 4, 1)
    assert group.reduce_scatter(450e6) == group.all_gather(450e6) == pytest.approx(RING_LATENCY + 3 * NVLINK_HOP + 0.75 * 1e-3 / LINK_SHARE)
    assert group.all_reduce(450e6) == pytest.approx(RING_LATENCY + 6 * NVLINK_HOP + 1.5 * 1e-3 / LINK_SHARE)


def test_a_ring_over_nodes_by_hand() -> None:
    """Two of the 8 data-parallel ranks are on each node, so two rings and two ports: 100 GB/s."""
    group = data_group(LAYOUT, CLUSTER)
    assert (group.size, group.in_node, group.nodes) == (8, 2, 4)
    assert group.all_gather(100e6) == pytest.approx(RING_LATENCY + 4 * NVLINK_HOP + 3 * NETWORK_HOP + 7 / 8 * 1e-3 / LINK_SHARE)


def test_many_ports_are_no_quicker_than_nvlink() -> None:
    group = data_group(LayoutConfig(data=64), CLUSTER)
    assert group.in_node == 8 and group.bandwidth == LINK_SHARE * 8 * 50e9
    assert data_group(LayoutConfig(data=8), CLUSTER).bandwidth == LINK_SHARE * 450e9


def test_one_rank_exchanges_nothing() -> None:
    group = tensor_group(LayoutConfig(data=64), CLUSTER)
    assert group.all_gather(1e9) == group.reduce_scatter(1e9) == group.all_reduce(1e9) == 0


def test_stages_are_neighbours_on_a_node_where_there_is_room() -> None:
    small = LayoutConfig(tensor=2, pipeline=8, data=1)
    assert [stage_link(small, CLUSTER, stage) for stage in range(7)] == [NVLINK_4, NVLINK_4, NVLINK_4, NDR, NVLINK_4, NVLINK_4, NVLINK_4]
    assert stage_link(LAYOUT, CLUSTER, 0) is NDR


def test_a_message_by_hand() -> None:
    assert message_seconds(NDR, 50e6) == pytest.approx(RING_LATENCY + NETWORK_HOP + 1e-3 / LINK_SHARE)
    assert message_seconds(NDR, 0) == 0
