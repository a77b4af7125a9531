"""Seconds of exchanges: of NCCL's ring algorithms, by bytes and by where a group's ranks lie, or as they were measured on a machine.

Other traffic is taken to keep out of the way.
"""

from dataclasses import dataclass

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.planner.hardware import RING_LATENCY, Cluster, Link
from megatron_mplug2.planner.rates import Exchange

LINK_SHARE = 0.8
"""Of a link's bandwidth that collectives of large tensors reach. An assumption."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that work together, as they lie on the nodes."""

    cluster: Cluster
    size: int
    in_node: int
    """Of each node."""

    @property
    def nodes(self) -> int:
        return -(-self.size // self.in_node)

    @property
    def bandwidth(self) -> float:
        """Bytes a second through each rank of a ring. Between nodes as many rings run as the group has ranks on one, each by a port."""
        gpu = self.cluster.gpu
        return LINK_SHARE * (gpu.inside.bandwidth if self.nodes == 1 else min(gpu.inside.bandwidth, self.in_node * gpu.outside.bandwidth))

    def all_reduce(self, size: float) -> float:
        """Of `size` bytes. In rings a reduce-scatter and an all-gather, begun once."""
        return self._seconds(Exchange.ALL_REDUCE, size)

    def reduce_scatter(self, size: float) -> float:
        """Of `size` bytes on each rank."""
        return self._seconds(Exchange.REDUCE_SCATTER, size)

    def all_gather(self, size: float) -> float:
        """To `size` bytes on each rank."""
        return self._seconds(Exchange.ALL_GATHER, size)

    def _seconds(self, exchange: Exchange, size: float) -> float:
        if self.size == 1:
            return 0.0
        if (measured := self.cluster.gpu.measured) is not None:
            return measured.exchange_seconds(exchange, self.size, size)
        return 2 * self._turn(size) - RING_LATENCY if exchange is Exchange.ALL_REDUCE else self._turn(size)

    def _turn(self, size: float) -> float:
        """Each part goes once around, but for the last hop."""
        gpu, between = self.cluster.gpu, self.nodes - 1
        hops = (self.size - 1 - between) * gpu.inside.latency + between * gpu.outside.latency
        return RING_LATENCY + hops + (self.size - 1) / self.size * size / self.bandwidth


def tensor_group(layout: LayoutConfig, cluster: Cluster) -> Group:
    """Neighbours by rank. The layout's tensor size divides a node's GPUs, or is more."""
    return Group(cluster=cluster, size=layout.tensor, in_node=min(layout.tensor, cluster.node))


def data_group(layout: LayoutConfig, cluster: Cluster) -> Group:
    """Every `layout.tensor`-th rank of a stage."""
    return Group(cluster=cluster, size=layout.data, in_node=max(1, min(layout.data, cluster.node // layout.tensor)))


def stage_link(layout: LayoutConfig, cluster: Cluster, stage: int) -> Link:
    """From a stage to the next one, the slowest of the ranks' links: stages lie one after another over the nodes."""
    ranks = layout.tensor * layout.data
    places = range(stage * ranks, (stage + 1) * ranks)
    crosses = any(place // cluster.node != (place + ranks) // cluster.node for place in places)
    return cluster.gpu.outside if crosses else cluster.gpu.inside


def stage_message(layout: LayoutConfig, cluster: Cluster, stage: int, size: float) -> float:
    """From a rank of a stage to its neighbour on the next; 0 where nothing is sent."""
    if (measured := cluster.gpu.measured) is not None:
        return measured.exchange_seconds(Exchange.MESSAGE, 2, size)
    return message_seconds(stage_link(layout, cluster, stage), size)


def message_seconds(link: Link, size: float) -> float:
    return RING_LATENCY + link.latency + size / (LINK_SHARE * link.bandwidth) if size else 0.0
