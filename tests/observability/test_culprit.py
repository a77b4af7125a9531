"""Who holds up a run, from what all ranks say."""

from megatron_mplug2.observability.beats import Beat
from megatron_mplug2.observability.culprit import find_culprit
from megatron_mplug2.observability.sections import Section


def beat(rank: int, step: int, section: Section, *, waits: bool = True, count: int = 9) -> Beat:
    return Beat(rank=rank, host="n", pid=1, born=0.0, count=count, step=step, section=section, waits=waits, doing="x.py:1 f")


def culprit(*beats: Beat, world_size: int | None = None) -> tuple[int, bool]:
    before = {one.rank: one.model_copy(update={"count": 8}) for one in beats}
    found = find_culprit(before, {one.rank: one for one in beats}, world_size or len(beats))
    return found.rank, found.silent


def test_the_rank_whose_step_is_behind() -> None:
    assert culprit(beat(0, 4, Section.MEETING), beat(1, 3, Section.CHECKPOINT), beat(2, 4, Section.MEETING)) == (1, False)


def test_the_rank_whose_section_is_behind() -> None:
    assert culprit(beat(0, 4, Section.MEETING), beat(1, 4, Section.MEETING), beat(2, 4, Section.DATA_WAIT, waits=False)) == (2, False)


def test_a_rank_in_a_collective_waits_for_one_that_is_not() -> None:
    ranks = [beat(rank, 4, Section.FORWARD_BACKWARD, waits=rank != 2) for rank in range(4)]
    assert culprit(*ranks) == (2, False)


def test_a_rank_that_is_ahead_is_not_waited_for() -> None:
    """A stage that computes in the section behind is waited for by one that is in the section after it."""
    assert culprit(beat(0, 4, Section.GRADIENT_REDUCTION), beat(1, 4, Section.FORWARD_BACKWARD)) == (1, False)


def test_a_silent_rank_comes_first() -> None:
    assert culprit(beat(0, 4, Section.MEETING), beat(1, 4, Section.OPTIMIZER, count=8)) == (1, True)
    assert culprit(beat(0, 4, Section.MEETING), world_size=2) == (1, True), "it never came"
