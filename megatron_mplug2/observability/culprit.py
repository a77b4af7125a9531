"""Which rank holds up a run that stands still, from what the ranks said of themselves at two moments."""

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_mplug2.observability.beats import Beat


@dataclass(frozen=True, kw_only=True)
class Culprit:
    rank: int
    silent: bool
    """Whether even its watchdog says nothing: its process is gone or stopped, or its interpreter is held."""
    doing: str
    """Step, section and place in the code."""


def find_culprit(before: Mapping[int, Beat], after: Mapping[int, Beat], world_size: int) -> Culprit:
    """The rank that is furthest behind.

    First one that is silent, then by step and section; in one section a rank that works before those that wait in a collective: a
    collective is waited for only by ranks that came to it. `after` is read some beats after `before`.
    """
    silent = {rank for rank in range(world_size) if rank not in after or (rank in before and before[rank].count == after[rank].count)}

    def behind(rank: int) -> tuple[bool, int, int, bool, int]:
        beat = after.get(rank)
        if beat is None:
            return False, -1, -1, False, rank
        return rank not in silent, beat.step, beat.section.place, beat.waits, rank

    rank = min(range(world_size), key=behind)
    return Culprit(rank=rank, silent=rank in silent, doing=_doing(after.get(rank)))


def _doing(beat: Beat | None) -> str:
    if beat is None:
        return "has not begun"
    return f"step {beat.step}, {beat.section}, at {beat.doing}"
