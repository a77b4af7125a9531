"""Begin and end of each piece of work, against pipelines worked out by hand and the formula of the bubble."""

from itertools import pairwise

import pytest

from megatron_mplug2.planner.schedule import Kind, Work, one_forward_one_backward
from megatron_mplug2.planner.simulation import (
    NOTHING,
    PassTimes,
    Timeline,
    feature_timeline,
    simulate,
    training_timeline,
)


def even(stages: int, message: float = 0.0) -> PassTimes:
    """A backward pass takes 2, a forward pass 1."""
    return PassTimes(forward=(1.0,) * stages, backward=(2.0,) * stages, messages=(message,) * (stages - 1))


def begins(timeline: Timeline, stage: int) -> str:
    """F0@0: the forward pass of microbatch 0 begins at 0."""
    return " ".join(f"{event.work.kind[0].upper()}{event.work.microbatch}@{event.begin:g}" for event in timeline.of(stage))


def gaps(timeline: Timeline, stage: int) -> list[tuple[float, float]]:
    """(begin, end) of a stage's waits between its first work and its last."""
    return [(one.end, other.begin) for one, other in pairwise(timeline.of(stage)) if other.begin > one.end]


def test_two_stages_by_hand() -> None:
    timeline = training_timeline(even(2), 2)
    assert begins(timeline, 0) == "F0@0 F1@1 B0@4 B1@7"
    assert begins(timeline, 1) == "F0@1 B0@2 F1@4 B1@5"
    assert timeline.duration == 9
    assert gaps(timeline, 0) == [(2, 4), (6, 7)] and gaps(timeline, 1) == []
    assert timeline.idle == pytest.approx(6 / 18)


def test_messages_take_their_time_by_hand() -> None:
    timeline = training_timeline(even(2, message=0.5), 2)
    assert begins(timeline, 0) == "F0@0 F1@1 B0@5 B1@8"
    assert begins(timeline, 1) == "F0@1.5 B0@2.5 F1@4.5 B1@5.5"


def test_stages_that_differ_by_hand() -> None:
    """The second stage is three times as slow: the first waits for it, and it waits only for its first microbatch."""
    times = PassTimes(forward=(1, 3), backward=(1, 3), messages=(0,))
    timeline = training_timeline(times, 3)
    assert begins(timeline, 1) == "F0@1 B0@4 F1@7 B1@10 F2@13 B2@16"
    assert begins(timeline, 0) == "F0@0 F1@1 B0@7 F2@8 B1@13 B2@19"
    assert timeline.duration == 20


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("microbatches", [8, 32])
def test_the_bubble_of_even_stages_is_the_formula(stages: int, microbatches: int) -> None:
    """(p - 1) / m of the time without a bubble (Narayanan et al. 2021, arXiv 2104.04473, section 2.2)."""
    timeline = training_timeline(even(stages), microbatches)
    ideal = microbatches * 3.0
    assert (timeline.duration - ideal) / ideal == pytest.approx((stages - 1) / microbatches)
    assert timeline.idle == pytest.approx((stages - 1) / (microbatches + stages - 1))


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 8), (2, 8), (4, 8), (4, 2)])
def test_every_stage_keeps_the_order_and_does_one_thing_at_a_time(stages: int, microbatches: int) -> None:
    uneven = PassTimes(
        forward=tuple(1.0 + stage for stage in range(stages)),
        backward=tuple(3.0 - stage / 2 for stage in range(stages)),
        messages=(0.25,) * (stages - 1),
    )
    timeline = training_timeline(uneven, microbatches)
    for stage in range(stages):
        events = timeline.of(stage)
        assert tuple(event.work for event in events) == one_forward_one_backward(stages, stage, microbatches)
        assert all(one.end <= other.begin for one, other in pairwise(events))


def test_nothing_begins_before_its_message_is_there() -> None:
    times = PassTimes(forward=(1, 2, 1, 3), backward=(2, 1, 4, 2), messages=(0.5, 0.1, 0.3))
    timeline = training_timeline(times, 8)
    at = {(event.stage, event.work): event for event in timeline.events}
    for (stage, work), event in at.items():
        before = stage + (1 if work.kind is Kind.BACKWARD else -1)
        if 0 <= before < 4:
            assert event.begin >= at[before, work].end + times.messages[min(stage, before)]
    last = at[3, Work(Kind.BACKWARD, 0)]
    assert last.begin >= at[3, Work(Kind.FORWARD, 0)].end


def test_messages_make_a_deep_pipeline_longer_by_more_than_one_round_trip() -> None:
    """1F1B without overlap waits for a message in each steady microbatch, on all stages but the last."""
    without, with_them = (training_timeline(even(4, message=message), 8).duration for message in (0.0, 0.1))
    assert with_them - without > 2 * 3 * 0.1


def test_a_feature_pass_fills_the_pipeline_once() -> None:
    timeline = feature_timeline(even(3), 8)
    assert timeline.duration == 3 + 7
    assert begins(timeline, 2).startswith("F0@2 F1@3") and all(event.work.kind is Kind.FEATURES for event in timeline.events)


def test_passes_follow_one_another() -> None:
    features, training = feature_timeline(even(2), 2), training_timeline(even(4), 2)
    step = NOTHING.then(0, features).then(0.5, training).then(1)
    assert step.stages == 4
    assert step.duration == features.duration + 0.5 + training.duration + 1
    assert min(event.begin for event in step.events if event.work.kind is Kind.FORWARD) == features.duration + 0.5
    assert step.busy(0) == features.busy(0) + training.busy(0)


def test_an_order_that_never_comes_to_its_end_is_told() -> None:
    backward_first = (Work(Kind.BACKWARD, 0), Work(Kind.FORWARD, 0))
    with pytest.raises(ValueError, match="wait for one another after 0 pieces"):
        simulate([backward_first, backward_first[::-1]], even(2))
