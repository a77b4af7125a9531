"""Weights that two pipeline stages share: an embedding and the head that is tied to it, once they lie on different stages.

Both copies start equal (initialisation and checkpoints go by their one name), get the sum of both gradients, and so stay equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from megatron_mplug2.models.mplug2 import TIES, Stage
from megatron_mplug2.parallel.topology import Topology


@dataclass(frozen=True)
class TiedCopy:
    """This stage's copy of a tied weight, and the group of the two stages that hold one."""

    param: nn.Parameter
    group: dist.ProcessGroup


def tied_copies(stage: Stage, topology: Topology) -> list[TiedCopy]:
    """Trained copies that have a twin on another stage, marked for Megatron-Core. Before its DistributedDataParallel is made."""
    copies = []
    names = {unit.name for unit in stage.units}
    for tie, group in zip(TIES, topology.tie_groups, strict=True):
        if group is None:
            continue
        embedded = tie.embedding in names
        param = stage.block(tie.embedding).word.weight if embedded else stage.block(tie.head).word  # type: ignore[union-attr]
        assert isinstance(param, nn.Parameter)
        if not param.requires_grad:  # both copies have one name, so both are frozen
            continue
        # A bucket of its own: else ZeRO-1 shards the two copies at different places, and each rank sums what doesn't belong together.
        param.shared_embedding = True  # type: ignore[attr-defined]
        # Counted once in the gradient norm.
        param.shared = not embedded  # type: ignore[attr-defined]
        copies.append(TiedCopy(param, group))
    return copies


def reduce_ties(copies: Sequence[TiedCopy]) -> None:
    """Sums the gradients of both copies, after the reduction over data-parallel ranks."""
    for copy in copies:
        dist.all_reduce(copy.param.main_grad, group=copy.group)  # type: ignore[attr-defined]
