"""Which questions a step asks of a picture, and what each of their answers weighs."""

import pytest

from megatron_mplug2.config.objectives import Answers
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.asked import Asked, answers, asked_questions
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.record import Question

TEN = Question(question="what color?", answer="red", answers=("red", "Red ", "dark red", "red", "blue", "red", "", "blue", "red", "maroon"))
ONE = Question(question="how many?", answer="2", answers=("2",) * 10)
PLAIN = Question(question="where?", answer="left")


def draws(epoch: int) -> SampleDraws:
    return SampleDraws(seed=0, task=Task.IMAGE_TEXT, epoch=epoch, index=0)


def test_answers_weigh_as_many_people_as_gave_them() -> None:
    """Case and blanks around do not make another answer, as the tokenizer sees it; who said nothing is counted, and teaches nothing."""
    assert answers(TEN, Answers.ALL) == [("red", 0.5), ("blue", 0.2), ("dark red", 0.1), ("maroon", 0.1)]
    assert answers(TEN, Answers.MOST_FREQUENT) == [("red", 1.0)]
    assert answers(PLAIN, Answers.ALL) == [("left", 1.0)]
    silent = Question(question="?", answer="x", answers=("", " "))
    assert answers(silent, Answers.ALL) == [("x", 1.0)]


def test_rows_hold_whole_questions_as_long_as_they_fit() -> None:
    seen = set()
    for epoch in range(20):
        rows = asked_questions([TEN, ONE, PLAIN], 5, Answers.ALL, draws(epoch))
        asked = [row.instruction for row in rows if row.instruction]
        seen.add(tuple(dict.fromkeys(asked)))
        assert len(rows) == 5 and asked.count(TEN.question) in (0, 4)
        assert sum(row.share for row in rows if row.instruction == TEN.question) in (0, pytest.approx(0.9))
        assert asked_questions([TEN, ONE, PLAIN], 5, Answers.ALL, draws(epoch)) == rows
    assert (TEN.question, ONE.question) in seen and (ONE.question, PLAIN.question) in seen


def test_a_question_with_more_answers_than_rows_has_its_most_frequent_ones() -> None:
    rows = asked_questions([TEN], 2, Answers.ALL, draws(0))
    assert rows == [Asked(instruction="what color?", answer="red", share=0.5), Asked(instruction="what color?", answer="blue", share=0.2)]
