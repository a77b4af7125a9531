"""Where the chain is cut into pipeline stages, and which stages share something beyond a neighbour's message."""

from dataclasses import dataclass

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.mplug2 import CONTRAST, TIES, run_chain
from megatron_mplug2.models.stage_cuts import quickest_starts
from megatron_mplug2.models.workload import passes
from megatron_mplug2.parallel.topology import StageRoles


@dataclass(frozen=True)
class Partition:
    """The chain in contiguous stages."""

    units: tuple[Unit, ...]
    starts: tuple[int, ...]
    """Index of the first unit of every stage; the first is 0."""

    def stage_units(self, stage: int) -> tuple[Unit, ...]:
        return self.units[self.starts[stage] : self.cut_after(stage)]

    def cut_before(self, stage: int) -> int:
        """Index in the chain of the cut at which a stage receives."""
        return self.starts[stage]

    def cut_after(self, stage: int) -> int:
        return self.starts[stage + 1] if stage + 1 < len(self.starts) else len(self.units)

    def stage_of(self, unit_name: str) -> int:
        index = next(index for index, unit in enumerate(self.units) if unit.name == unit_name)
        return max(stage for stage, start in enumerate(self.starts) if start <= index)

    @property
    def roles(self) -> StageRoles:
        return StageRoles(
            features=self.stage_of(CONTRAST),
            ties=tuple((self.stage_of(tie.embedding), self.stage_of(tie.head)) for tie in TIES),
        )


def make_partition(config: RunConfig) -> Partition:
    """The chain cut where `layout.stage_starts` says, else so that the run's steps take the least time."""
    starts = config.layout.stage_starts
    cuts = (0, *starts) if starts is not None else quickest_starts(passes(config), config.layout.pipeline)
    return Partition(run_chain(config), cuts)
