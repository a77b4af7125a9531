"""The only place where process groups are made. Everything else is handed a `Topology`."""

import gc
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.parallel import device

GROUP_TIMEOUT = timedelta(hours=2)
"""torch's limit on a collective: past the watchdog's (`training.hang_timeout_s`), which names the rank that is missing."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """This rank's place in the layout, and the groups that it talks in.

    Ranks are ordered tensor fastest, then data, then pipeline (Megatron-Core's "tp-cp-ep-dp-pp").
    """

    rank: int
    world_size: int
    tensor_rank: int
    tensor_size: int
    pipeline_rank: int
    pipeline_size: int
    data_rank: int
    data_size: int
    sequence_parallel: bool
    groups: ProcessGroupCollection
    """Groups under the names that Megatron-Core's classes ask for (tp, pp, mp, dp, dp_cp, ...)."""
    background_group: dist.ProcessGroup
    """All ranks, by the CPU: for what runs beside the training steps, whose own collectives it must not meet."""
    pipeline_ranks: tuple[int, ...]
    """Global ranks of this rank's pipeline, first stage first."""
    features_group: dist.ProcessGroup | None
    """The pipeline's stages up to the one that owns the contrastive features; None beyond it, or at pipeline size 1."""
    tie_groups: tuple[dist.ProcessGroup | None, ...]
    """For each tied pair of weights, the group of the two stages that hold its copies; None where this rank holds none or both."""

    @property
    def last_stage(self) -> bool:
        return self.pipeline_rank == self.pipeline_size - 1

    @property
    def tensor_group(self) -> dist.ProcessGroup:
        return self.groups.tp

    @property
    def data_group(self) -> dist.ProcessGroup:
        return self.groups.dp

    @property
    def model_parallel_group(self) -> dist.ProcessGroup:
        """The ranks that hold one replica of the model: tensor x pipeline."""
        return self.groups.mp

    def model_parallel_rank(self, stage: int) -> int:
        """Global rank of tensor rank 0 of a stage in this rank's model replica."""
        return self.pipeline_ranks[stage] - self.tensor_rank


@dataclass(frozen=True, kw_only=True)
class StageRoles:
    """Which stages share something beyond a neighbour's message; known from the cuts before any group is made."""

    features: int = 0
    """Stage that owns the contrastive features."""
    ties: tuple[tuple[int, int], ...] = ()
    """Stages of the two copies of each tied pair."""


def make_topology(layout: LayoutConfig, roles: StageRoles) -> Topology:
    """Makes every group of a layout. torch.distributed must be initialised with `layout.world_size` ranks.

    Raises ValueError where the world size differs from the layout's.
    """
    if dist.get_world_size() != layout.world_size:
        raise ValueError(f"the layout needs {layout.world_size} ranks, the world has {dist.get_world_size()}")
    device.install_cpu_backend()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=GROUP_TIMEOUT // timedelta(minutes=1),
    )
    groups = ProcessGroupCollection.use_mpu_process_groups()
    # Our tied pairs have groups of their own: Megatron-Core's single embedding group must stay out of it. None would mean its global one;
    # a group of one rank means nothing to reduce.
    groups.embd = groups.cp
    groups.pos_embd = groups.cp
    pipeline_ranks = tuple(dist.get_process_group_ranks(groups.pp))
    return Topology(
        rank=dist.get_rank(),
        world_size=layout.world_size,
        tensor_rank=groups.tp.rank(),
        tensor_size=layout.tensor,
        pipeline_rank=groups.pp.rank(),
        pipeline_size=layout.pipeline,
        data_rank=groups.dp.rank(),
        data_size=layout.data,
        sequence_parallel=layout.sequence_parallel,
        groups=groups,
        background_group=dist.new_group(backend="gloo", timeout=GROUP_TIMEOUT),
        pipeline_ranks=pipeline_ranks,
        features_group=_features_group(layout, roles.features),
        tie_groups=tuple(_tie_group(layout, stages) for stages in roles.ties),
    )


def forget_groups() -> None:
    """Lets go of `make_topology`'s groups, after `dist.destroy_process_group`: the process may then make those of another job, or fork.

    A process that inherits them by fork would wait in their destructors for threads that it hasn't.
    """
    parallel_state.destroy_model_parallel()
    # Megatron-Core 0.16.1 forgets to clear this one.
    parallel_state._INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP = None
    gc.collect()  # what held them may hold itself


def _pipelines(layout: LayoutConfig) -> list[list[int]]:
    """Global ranks of every pipeline, in the order of Megatron-Core's "tp-cp-ep-dp-pp"."""
    stage_size = layout.tensor * layout.data
    return [[stage * stage_size + place for stage in range(layout.pipeline)] for place in range(stage_size)]


def _group_of_stages(layout: LayoutConfig, stages: list[int]) -> dist.ProcessGroup | None:
    """Every rank makes every pipeline's group (torch.distributed asks for it) and keeps its own."""
    mine = None
    for pipeline in _pipelines(layout):
        ranks = [pipeline[stage] for stage in stages]
        group = dist.new_group(ranks, timeout=GROUP_TIMEOUT)
        if dist.get_rank() in ranks:
            mine = group
    return mine


def _features_group(layout: LayoutConfig, owner: int) -> dist.ProcessGroup | None:
    return _group_of_stages(layout, list(range(owner + 1))) if layout.pipeline > 1 else None


def _tie_group(layout: LayoutConfig, stages: tuple[int, int]) -> dist.ProcessGroup | None:
    return _group_of_stages(layout, sorted(stages)) if stages[0] != stages[1] else None
