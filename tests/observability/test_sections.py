"""Where a rank is, and how long it was there."""

import pytest

from megatron_mplug2.observability.sections import Section, SectionClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("megatron_mplug2.parallel.marks.time.perf_counter", lambda: now[0])
    return now


def test_seconds_of_sections_that_have_ended(now: list[float]) -> None:
    clock = SectionClock()
    for section, seconds in ((Section.DATA_WAIT, 1.0), (Section.OPTIMIZER, 2.0), (Section.DATA_WAIT, 4.0), (Section.LOGGING, 8.0)):
        clock.enter(section)
        now[0] += seconds
    taken = clock.take()
    assert {section: seconds for section, seconds in taken.items() if seconds} == {Section.DATA_WAIT: 5.0, Section.OPTIMIZER: 2.0}
    clock.enter(Section.DATA_WAIT)
    assert clock.take()[Section.LOGGING] == 8.0, "what had not ended counts the next time"


def test_a_block_is_one_section_whatever_is_entered_in_it(now: list[float]) -> None:
    clock = SectionClock()
    clock.enter(Section.LOGGING, step=7)
    with clock.within(Section.VALIDATION):
        before = clock.position
        now[0] += 1.0
        clock.enter(Section.FORWARD_BACKWARD)
        assert (clock.position.section, clock.position.step) == (Section.VALIDATION, 7)
        assert clock.position is not before, "it is progress"
        now[0] += 1.0
    assert clock.position.section is Section.LOGGING
    assert clock.take()[Section.VALIDATION] == 2.0
