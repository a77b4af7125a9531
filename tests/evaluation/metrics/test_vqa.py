"""Cases worked by hand, after the published script's rules."""

import pytest

from megatron_mplug2.evaluation.metrics.vqa import normalised, vqa_accuracy


@pytest.mark.parametrize(("agree", "right"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (10, 100)])
def test_the_mean_over_leaving_one_person_out(agree: int, right: float) -> None:
    """With two that agree: for those two one other agrees (1/3), for the eight others two do (2/3)."""
    assert vqa_accuracy("yes", ["yes"] * agree + ["no"] * (10 - agree)) == pytest.approx(right)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Car", "red car"),
        ("two", "2"),
        ("None", "0"),
        ("a dozen", "dozen"),
        ("dont know", "don't know"),
        ("its", "its"),
        ("couldnt've", "couldn't've"),
        ("yes, it is", "yes it is"),  # beside a space: gone
        ("black/white", "black white"),  # between letters: a space
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),  # in a number: gone
        ("3.5 miles.", "3.5 miles"),
        ("what's up?", "what's up"),
        ("a, b/c , d", "b c d"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_answers_are_compared_normalised_where_people_differ() -> None:
    assert vqa_accuracy("The 2 dogs", ["two dogs"] * 5 + ["2 dogs."] * 4 + ["cats"]) == 100.0
    assert vqa_accuracy("two", [" 2\n"] * 10) == 0.0, "all said the same: as it stands"
    assert vqa_accuracy(" 2 ", ["2"] * 10) == 100.0
