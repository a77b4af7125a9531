"""How many questions are answered right, and whether the answers about motion come from the motion."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_mplug2.data.record import Question
from megatron_mplug2.evaluation.metrics.exact_match import same
from megatron_mplug2.evaluation.scoring import share

MOTION = "motion"
"""The kind of question that is asked of the reversed and the frozen clip too."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question with what the model says."""

    index: int
    """Sample in the manifest of the split."""
    question: Question
    said: str
    said_reversed: str | None = None
    """Of the clip played backwards; None where it is not asked (nor below)."""
    said_single_frame: str | None = None
    """Of the middle frame alone, shown as often as there are frames."""


@dataclass(frozen=True, kw_only=True)
class QuestionResult:
    """Percentages of exact matches; None where there is nothing to count."""

    all: float | None
    motion: float | None
    motion_reversed_opposite: float | None
    """Clips played backwards that get the answer that is right of them then."""
    motion_single_frame: float | None
    """The true answer from one frame: what looks alone give away."""
    chance_motion: float | None
    """By blind choice among the answers that each question about motion has (left, right, up and down, or grows and shrinks)."""


def reversed_in_time(media: torch.Tensor) -> torch.Tensor:
    """[b, 3, T, R, R] played backwards."""
    return media.flip(2)


def single_frame(media: torch.Tensor) -> torch.Tensor:
    """[b, 3, T, R, R] with every frame replaced by the middle one (the later of two)."""
    frames = media.shape[2]
    return media[:, :, frames // 2 : frames // 2 + 1].expand_as(media).contiguous()


def score_answers(answers: Sequence[Answer]) -> QuestionResult:
    motion = [answer for answer in answers if answer.question.kind == MOTION]
    turned = [(a.said_reversed, a.question.reversed_answer) for a in motion]
    frozen = [(a.said_single_frame, a.question.answer) for a in motion]
    return QuestionResult(
        all=share([same(answer.said, answer.question.answer) for answer in answers]),
        motion=share([same(answer.said, answer.question.answer) for answer in motion]),
        motion_reversed_opposite=share([same(said, truth) for said, truth in turned if said is not None and truth is not None]),
        motion_single_frame=share([same(said, truth) for said, truth in frozen if said is not None]),
        chance_motion=_blind_choice(motion),
    )


def _blind_choice(answers: Sequence[Answer]) -> float | None:
    """Mean over the questions of one part in the number of distinct answers to the question."""
    possible: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        possible[answer.question.question].add(answer.question.answer)
    shares = [1 / len(possible[answer.question.question]) for answer in answers]
    return 100 * sum(shares) / len(shares) if shares else None
