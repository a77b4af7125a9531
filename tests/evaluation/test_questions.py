from dataclasses import asdict, replace

import pytest
import torch

from megatron_mplug2.data.record import Question
from megatron_mplug2.evaluation.questions import Answer, reversed_in_time, score_answers, single_frame


def moves(index: int, truth: str, opposite: str | None, said: tuple[str, str, str]) -> Answer:
    question = Question(question="how does it move?", answer=truth, kind="motion", reversed_answer=opposite)
    return Answer(index=index, question=question, said=said[0], said_reversed=said[1], said_single_frame=said[2])


def test_answers_are_counted_by_kind() -> None:
    color = Question(question="which color?", answer="Red", kind="color")
    answers = [
        moves(0, "left", "right", ("left", "right", "left")),
        moves(1, "left", "right", ("left ", "left", "up")),
        moves(2, "up", "down", ("down", "down", "down")),
        moves(3, "still", None, ("still", "still", "up")),
        Answer(index=0, question=color, said=" red"),
        Answer(index=1, question=color, said="red red"),
    ]
    result = score_answers(answers)
    assert asdict(result) == pytest.approx(
        {
            "all": 100 * 4 / 6,
            "motion": 75.0,
            "motion_reversed_opposite": 100 * 2 / 3,
            "motion_single_frame": 25.0,
            "chance_motion": 100 / 3,
        }
    )


def test_chance_is_among_the_answers_of_each_question() -> None:
    grows = Question(question="what happens to its size?", answer="grows", kind="motion", reversed_answer="shrinks")
    answers = [
        *(moves(index, truth, None, ("", "", "")) for index, truth in enumerate(("left", "right", "up", "down"))),
        Answer(index=4, question=grows, said=""),
        Answer(index=5, question=replace(grows, answer="shrinks"), said=""),
    ]
    assert score_answers(answers).chance_motion == pytest.approx((4 * 25 + 2 * 50) / 6)


def test_nothing_to_count_is_none() -> None:
    question = Question(question="which color?", answer="red", kind="color")
    result = score_answers([Answer(index=0, question=question, said="red")])
    assert (result.all, result.motion, result.motion_reversed_opposite, result.motion_single_frame) == (100.0, None, None, None)
    assert result.chance_motion is None


def test_clips_are_reversed_and_frozen_in_time() -> None:
    media = torch.arange(2 * 3 * 4).view(2, 3, 4, 1, 1).float()
    assert reversed_in_time(media)[1, 2, :, 0, 0].tolist() == [23, 22, 21, 20]
    assert single_frame(media)[1, 2, :, 0, 0].tolist() == [22, 22, 22, 22]
    assert single_frame(media[:, :, :3])[0, 0, :, 0, 0].tolist() == [1, 1, 1]
