"""The order of a stage's work, against cases worked out by hand and against Megatron-Core's own schedule."""

import pytest

from megatron_mplug2.planner.schedule import Kind, Order, Work, feature_order, one_forward_one_backward, warm_up


def order(written: str) -> Order:
    """F0 B0: forward and backward of microbatch 0."""
    kinds = {"F": Kind.FORWARD, "B": Kind.BACKWARD, "V": Kind.FEATURES}
    return tuple(Work(kinds[word[0]], int(word[1:])) for word in written.split())


@pytest.mark.parametrize(
    ("stages", "stage", "microbatches", "written"),
    [
        (1, 0, 8, "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7"),
        (2, 0, 8, "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 B7"),
        (2, 1, 8, "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7"),
        (4, 0, 8, "F0 F1 F2 F3 B0 F4 B1 F5 B2 F6 B3 F7 B4 B5 B6 B7"),
        (4, 1, 8, "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 B6 B7"),
        (4, 2, 8, "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 B7"),
        (4, 3, 8, "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7"),
        # Fewer microbatches than stages: all go forward first.
        (4, 0, 2, "F0 F1 B0 B1"),
        (4, 2, 2, "F0 F1 B0 B1"),
        (4, 3, 2, "F0 B0 F1 B1"),
    ],
)
def test_1f1b(stages: int, stage: int, microbatches: int, written: str) -> None:
    assert one_forward_one_backward(stages, stage, microbatches) == order(written)


def test_the_warm_up_is_the_stages_that_follow() -> None:
    assert [warm_up(4, stage, 8) for stage in range(4)] == [3, 2, 1, 0]
    assert [warm_up(4, stage, 2) for stage in range(4)] == [2, 2, 1, 0]


def test_features_go_forward_only() -> None:
    assert feature_order(3) == order("V0 V1 V2")
