"""Section times over the ranks."""

from megatron_mplug2.observability.sections import Section
from megatron_mplug2.observability.stragglers import SectionTime, find_straggler, section_times

Times = dict[Section, float]


def rank(wait: float = 0.1, meeting: float = 0.0, work: float = 1.0) -> Times:
    return {**dict.fromkeys(Section, 0.0), Section.DATA_WAIT: wait, Section.MEETING: meeting, Section.FORWARD_BACKWARD: work}


def test_medians_and_the_slowest() -> None:
    times = section_times([rank(0.1), rank(0.3), rank(0.2)])
    assert times == {
        Section.DATA_WAIT: SectionTime(median=0.2, slowest=0.3, rank=1),
        Section.FORWARD_BACKWARD: SectionTime(median=1.0, slowest=1.0, rank=0),
    }


def test_the_one_who_waits_for_data_is_named_not_those_who_wait_for_it() -> None:
    found = find_straggler([rank(meeting=2.0), rank(wait=2.1), rank(meeting=2.0)], stages=[0, 0, 0])
    assert found is not None
    assert str(found) == "straggler: rank 1, data wait 2.1 s a step, 2 s over the median of its stage"


def test_of_two_ranks_the_slower_one() -> None:
    found = find_straggler([rank(), rank(work=2.0)], stages=[0, 0])
    assert found is not None and (found.rank, found.section) == (1, Section.FORWARD_BACKWARD)


def test_small_differences_are_no_news() -> None:
    assert find_straggler([rank(), rank(work=1.2)], stages=[0, 0]) is None


def test_stages_are_not_compared_with_one_another() -> None:
    assert find_straggler([rank(), rank(work=9.0)], stages=[0, 1]) is None
