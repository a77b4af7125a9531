"""What a picture or clip is asked in a step, and the answers that are taught."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_mplug2.config.objectives import Answers
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.record import Question


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row of the decoder."""

    instruction: str
    answer: str
    share: float = 1.0
    """Of the question, in (0, 1]: what this answer weighs among those to the same question."""


NOTHING = Asked(instruction="", answer="")
"""A row that predicts no token, and so counts nothing."""


def filled(asked: Sequence[Asked], rows: int) -> list[Asked]:
    """With rows of nothing up to so many."""
    return [*asked, *[NOTHING] * (rows - len(asked))]


def asked_questions(questions: Sequence[Question], rows: int, taught: Answers, draws: SampleDraws) -> list[Asked]:
    """So many rows: drawn questions, each with all its answers that are taught, and at most once.

    A question whose answers do not fit into the rows that are left ends them; the first one then has its most frequent ones.
    """
    found: list[Asked] = []
    for place in draws.order(len(questions), Purpose.QUESTIONS):
        question = questions[place]
        told = [Asked(instruction=question.question, answer=answer, share=share) for answer, share in answers(question, taught)]
        if found and len(found) + len(told) > rows:
            break
        found += told[:rows]
    return filled(found, rows)


def answers(question: Question, taught: Answers) -> list[tuple[str, float]]:
    """Those that are taught and their shares, the most frequent first, of equals the first that was given."""
    given = Counter(answer.strip().lower() for answer in question.answers)
    if taught is Answers.MOST_FREQUENT or not given:
        return [(question.answer, 1.0)]
    return [(answer, count / given.total()) for answer, count in given.most_common() if answer] or [(question.answer, 1.0)]
