"""Where the chain is cut into pipeline stages, and which stages share something beyond a neighbour's message."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from megatron_mplug2.models.chain import Unit
from megatron_mplug2.models.mplug2 import CONTRAST, TIES
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


def balanced_starts(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """First unit of each of the contiguous, non-empty stages whose dearest one is cheapest. Exact, by dynamic programming.

    Raises ValueError where there are fewer units than stages.
    """
    if len(costs) < stages:
        raise ValueError(f"{len(costs)} units cannot be cut into {stages} stages")
    total = [0.0, *accumulate(costs)]
    # best[end]: least possible maximum over the stages so far, which cover the first `end` units; cuts[end]: where the last one starts.
    best = [0.0] + [float("inf")] * len(costs)
    history: list[list[int]] = []
    for _ in range(stages):
        longer, cuts = [float("inf")] * (len(costs) + 1), [0] * (len(costs) + 1)
        for end in range(1, len(costs) + 1):
            candidates = ((max(best[start], total[end] - total[start]), start) for start in range(end))
            longer[end], cuts[end] = min(candidates)
        best = longer
        history.append(cuts)
    starts, end = [], len(costs)
    for cuts in reversed(history):
        end = cuts[end]
        starts.append(end)
    return tuple(reversed(starts))
