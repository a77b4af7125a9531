import pytest

from megatron_mplug2.evaluation.captions import CaptionPrediction, cider, named, score_captions

COLORS, MOTIONS = frozenset({"red", "blue", "dark blue"}), frozenset({"up", "to the left", "up and to the left"})


def prediction(index: int, said: str, *references: str, **attributes: str) -> CaptionPrediction:
    return CaptionPrediction(index=index, said=said, references=references, attributes=attributes)


def test_values_are_named_as_whole_words_and_the_longest_counts() -> None:
    assert named("A RED disc, not a reddish one.", COLORS) == {"red"}
    assert named("dark blue and red", COLORS) == {"dark blue", "red"}
    assert named("it goes up and to the left", MOTIONS) == {"up and to the left"}
    assert named("it goes up, then to the left", MOTIONS) == {"up", "to the left"}
    assert named("", MOTIONS) == set()


def test_attributes_are_right_when_all_three_are_and_no_other_is_named() -> None:
    true = {"color": "red", "shape": "disc", "size": "small", "motion": "up"}
    other = {"color": "blue", "shape": "square", "size": "large", "motion": "down"}
    said = [
        "a red disc moves up",
        "a large red disc moves up",  # the size is not counted
        "a blue disc moves up",
        "a red disc",
        "a red disc moves up and down",
        "a red blue disc moves up",
    ]
    told = [prediction(index, text, "a red disc moves up", **true) for index, text in enumerate(said)]
    told += [prediction(6, "a blue square moves down", "a blue square moves down", **other)]
    assert score_captions(told).attributes_right == pytest.approx(100 * 3 / 7)


def test_without_attributes_there_is_no_share() -> None:
    predictions = [prediction(0, "a cat", "a cat", "the cat"), prediction(1, "a dog", "one dog")]
    result = score_captions(predictions)
    assert result.attributes_right is None
    assert result.cider > 0


def test_cider_is_ten_for_the_reference_itself_and_nothing_for_other_words() -> None:
    texts = ["A red disc moves slowly up.", "a blue square goes far down", "the green star stays at rest", "no ring turns round today"]
    assert cider([prediction(i, text.upper(), text) for i, text in enumerate(texts)]) == pytest.approx(10.0)
    assert cider([prediction(i, "xyzzy plugh", text) for i, text in enumerate(texts)]) == 0.0
    partly = cider([prediction(i, text.replace("red", "blue").replace("square", "disc"), text) for i, text in enumerate(texts)])
    assert 0.0 < partly < 10.0
