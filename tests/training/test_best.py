"""Which validation is the best, and when the next better one is no longer waited for."""

import pytest

from megatron_mplug2.config.downstream import BestConfig, Better
from megatron_mplug2.errors import UserError
from megatron_mplug2.training.best import Best, BestSoFar
from tests.ranks import run_ranks

Seen = list[tuple[bool, int | None, bool]]


def watched(settings: BestConfig, figures: list[float], best: Best | None = None) -> tuple[Seen, Best | None]:
    """After each validation: whether it was the best, the best one's steps, and whether the run is over."""
    watch, seen = BestSoFar(settings, best), []
    for number, figure in enumerate(figures, 1):
        better = watch.judge(10 * number, {"loss": figure, "other": 0.0})
        seen.append((better, watch.step, watch.given_up))
    return seen, watch.best


@pytest.mark.parametrize(("better", "sign"), [(Better.LOWER, 1), (Better.HIGHER, -1)])
def test_the_best_one_and_the_end_of_patience(better: Better, sign: int) -> None:
    """An equal figure is no better one: the first of them stays."""
    settings, figures = BestConfig(figure="loss", better=better, patience=2), [sign * value for value in (3.0, 2.0, 2.0, 1.0, 4.0, 1.0)]
    ((seen, best),) = run_ranks(1, watched, settings, figures)
    steps = [10, 20, 20, 40, 40, 40]
    wanted = zip((True, True, False, True, False, False), steps, [False] * 5 + [True], strict=True)
    assert seen == list(wanted) and best == Best(step=40, figure="loss", value=sign * 1.0, waited=2)


def test_without_patience_it_waits_for_ever() -> None:
    ((seen, _),) = run_ranks(1, watched, BestConfig(figure="loss"), [1.0, *[2.0] * 20])
    assert seen[-1] == (False, 10, False)


def test_what_is_no_number_is_the_best_until_there_is_one() -> None:
    ((seen, best),) = run_ranks(1, watched, BestConfig(figure="loss"), [float("nan"), 3.0, float("nan")])
    assert [better for better, *_ in seen] == [True, True, False] and best == Best(step=20, figure="loss", value=3.0, waited=1)


def test_a_resume_waits_on() -> None:
    begun = Best(step=5, figure="loss", value=0.5, waited=1)
    ((seen, _),) = run_ranks(1, watched, BestConfig(figure="loss", patience=2), [0.7], begun)
    assert seen == [(False, 5, True)]


def test_the_best_by_another_figure_is_forgotten() -> None:
    begun = Best(step=5, figure="other", value=0.1, waited=1)
    ((seen, _),) = run_ranks(1, watched, BestConfig(figure="loss", patience=2), [0.7], begun)
    assert seen == [(True, 10, False)]
    assert BestSoFar(None, begun).step is None


def test_a_figure_that_is_not_there_is_told_with_those_that_are() -> None:
    def ask() -> str:
        with pytest.raises(UserError) as caught:
            BestSoFar(BestConfig(figure="video_qa/exact"), None).judge(1, {"video_text/loss/lm": 1.0, "x": 2.0})
        return str(caught.value)

    (said,) = run_ranks(1, ask)
    assert said == "downstream.best.figure=video_qa/exact is no figure of this run's validation; there are video_text/loss/lm, x"
