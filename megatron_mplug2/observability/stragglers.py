"""Section times of all ranks at a log step: what is usual, who is slowest, and whether one rank holds up the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from megatron_mplug2.observability.sections import OWN_WORK, Section

NOTABLE = 0.2
"""Share of the whole time by which a rank's section is longer than its peers' for a line about it."""


@dataclass(frozen=True, kw_only=True)
class SectionTime:
    """Seconds a step over the ranks."""

    median: float
    slowest: float
    rank: int
    """The slowest."""


@dataclass(frozen=True, kw_only=True)
class Straggler:
    rank: int
    section: Section
    seconds: float
    """A step."""
    usual: float
    """Median of the ranks of the same pipeline stage."""

    def __str__(self) -> str:
        more = f"{self.seconds - self.usual:.3g} s over the median of its stage"
        return f"straggler: rank {self.rank}, {self.section} {self.seconds:.3g} s a step, {more}"


def section_times(ranks: Sequence[Mapping[Section, float]]) -> dict[Section, SectionTime]:
    """Of every section that took any rank some time."""
    times = {}
    for section in Section:
        seconds = [rank[section] for rank in ranks]
        slowest = max(range(len(ranks)), key=seconds.__getitem__)
        if seconds[slowest]:
            times[section] = SectionTime(median=median_low(seconds), slowest=seconds[slowest], rank=slowest)
    return times


def find_straggler(ranks: Sequence[Mapping[Section, float]], stages: Sequence[int]) -> Straggler | None:
    """The rank that is furthest over the median of its pipeline stage in a section that is its own work; None where none is by much.

    Of two peers the lower time counts as usual. A stage with one rank has nothing to compare.
    """
    found: Straggler | None = None
    for section in OWN_WORK:
        for rank, seconds in enumerate(times[section] for times in ranks):
            usual = median_low(times[section] for times, stage in zip(ranks, stages, strict=True) if stage == stages[rank])
            over = seconds - usual
            if over > NOTABLE * sum(ranks[rank].values()) and (found is None or over > found.seconds - found.usual):
                found = Straggler(rank=rank, section=section, seconds=seconds, usual=usual)
    return found
