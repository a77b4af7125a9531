"""Groups by the CPU beside those by the devices: the same ranks, in the same order."""

from dataclasses import dataclass

import torch.distributed as dist

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.parallel.topology import StageRoles, make_topology
from tests.ranks import run_ranks


@dataclass(frozen=True)
class Ranks:
    """Global ones, of this rank's groups."""

    host: list[int]
    tensor_host: list[int] | None
    tensor: list[int]


def ranks_of(layout: LayoutConfig) -> Ranks:
    topology = make_topology(layout, StageRoles())
    assert len({dist.group.WORLD, topology.host_group, topology.background_group}) == 3, "two threads would meet in one group"
    by_host = topology.tensor_host_group
    return Ranks(
        host=dist.get_process_group_ranks(topology.host_group),
        tensor_host=None if by_host is None else dist.get_process_group_ranks(by_host),
        tensor=dist.get_process_group_ranks(topology.tensor_group),
    )


def test_tensor_parallel_ranks_meet_by_the_cpu_too() -> None:
    for rank, found in enumerate(run_ranks(4, ranks_of, LayoutConfig(tensor=2, pipeline=2))):
        assert found.host == [0, 1, 2, 3] and found.tensor == found.tensor_host == [rank // 2 * 2, rank // 2 * 2 + 1]


def test_alone_in_a_tensor_group_there_is_none_to_share_with() -> None:
    for rank, found in enumerate(run_ranks(2, ranks_of, LayoutConfig(data=2))):
        assert found == Ranks([0, 1], None, [rank])
