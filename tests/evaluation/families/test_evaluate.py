"""What an evaluation of a family writes, on real folders of real media, that no layout changes it, and what bad input says."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launchers.local import launch
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.load import write_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Question
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.answer_list import AnswerList, read_answers
from megatron_mplug2.evaluation.evaluate import evaluate, evaluate_untrained
from tests.data.corpus import Sample, picture, write_stream
from tests.evaluation.families.corpus import BAD, SAMPLES, family_config, sample, with_question, write_splits
from tests.evaluation.families.written import written
from tests.evaluation.test_evaluate import save_changed

USABLE = [number for number in range(SAMPLES) if number != BAD]
ASKED = [(number, place) for number in USABLE for place in range(number % 3)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_splits(folder)
    (folder / "answers.txt").write_text("\n".join(["red", "small", "large", "blue circle", "circle", "a red square"]))
    return folder


def evaluated(corpus: Path, run_dir: Path, family: Family, answers: AnswerList | None = None, **changes: Any) -> Any:
    config = family_config(corpus, run_dir, family, **changes)
    launch(config, partial(evaluate_untrained, answers=answers))
    return written(config, family)


def test_questions_are_answered_once_on_any_layout(corpus: Path, tmp_path: Path) -> None:
    results, lines = evaluated(corpus, tmp_path / "1", Family.VIDEO_QA)
    assert [(line["index"], line["asked"]) for line in lines] == [(number, f"what {('red', 'green')[place]} ?") for number, place in ASKED]
    assert (results["family"], results["samples"], list(results["left_out"])) == ("video_qa", SAMPLES - 1, [f"pair-{BAD:04d}"])
    assert list(results["scores"]) == ["VQA accuracy", "exact match", "exact match: color", "exact match: shape"]
    # The second question's most frequent answer is "large": two of ten people say so.
    assert results["chance"]["VQA accuracy"] == pytest.approx(60.0) and results["chance"]["exact match: shape"] == 100.0
    assert results["chance"]["exact match"] == pytest.approx(100 * 8 / 12)
    assert any(line["said"] for line in lines), "a random model says something"
    for size in (2, 3):
        assert evaluated(corpus, tmp_path / str(size), Family.VIDEO_QA, layout__data=size) == (results, lines)


def test_answers_come_from_the_list_where_there_is_one(corpus: Path, tmp_path: Path) -> None:
    answers = read_answers(corpus / "answers.txt")
    results, lines = evaluated(corpus, tmp_path / "1", Family.IMAGE_QA, answers)
    assert results["answers"] == 6 and {line["said"] for line in lines} <= set(answers.answers)
    assert len({line["said"] for line in lines}) > 1
    assert evaluated(corpus, tmp_path / "3", Family.IMAGE_QA, answers, layout__data=3) == (results, lines)


def test_texts_and_pictures_find_one_another_on_any_layout(corpus: Path, tmp_path: Path) -> None:
    results, lines = evaluated(corpus, tmp_path / "1", Family.IMAGE_RETRIEVAL)
    texts = [number for number in USABLE for _ in range(1 + number % 3)]
    assert [line["index"] for line in lines if line["kind"] == "text_to_media"] == texts
    assert [line["index"] for line in lines if line["kind"] == "media_to_text"] == USABLE
    for kind, way in (("text_to_media", "text finds picture"), ("media_to_text", "picture finds text")):
        places = [line["score"] for line in lines if line["kind"] == kind]
        for k in (1, 5, 10):
            within = sum(score >= 100 / k - 1e-6 for score in places)
            assert results["scores"][f"{way}, R@{k}"] == pytest.approx(100 * within / len(places))
    assert results["chance"]["text finds picture, R@1"] == pytest.approx(100 / len(USABLE))
    for line in lines:
        assert (line["said"] in line["references"]) == (line["score"] == 100.0)
    for size in (2, 3):
        assert evaluated(corpus, tmp_path / str(size), Family.IMAGE_RETRIEVAL, layout__data=size) == (results, lines)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("java") is None, reason="no java: apt-get install default-jre-headless")
def test_captions_are_scored_once_on_any_layout(corpus: Path, tmp_path: Path) -> None:
    results, lines = evaluated(corpus, tmp_path / "1", Family.VIDEO_CAPTION)
    assert [line["index"] for line in lines] == USABLE
    assert [len(line["references"]) for line in lines] == [1 + number % 3 for number in USABLE]
    assert list(results["scores"])[:7] == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L"]
    assert results["scores"]["CIDEr"] == pytest.approx(sum(line["score"] for line in lines) / len(lines))
    for size in (2, 3):
        assert evaluated(corpus, tmp_path / str(size), Family.VIDEO_CAPTION, layout__data=size) == (results, lines)


def test_the_checkpoint_is_what_is_evaluated_beside_other_evaluations(corpus: Path, tmp_path: Path) -> None:
    """As that of a pretraining, which is tried on a family without being finetuned for it."""
    launch(family_config(corpus, tmp_path / "run", None), save_changed)
    config = family_config(corpus, tmp_path / "run", Family.VIDEO_QA)
    launch(config, evaluate)
    results, lines = written(config, Family.VIDEO_QA, trained=True)
    expected, said = evaluated(corpus, tmp_path / "other", Family.VIDEO_QA, training__seed=9)
    assert results == expected | {"step": 3} and lines == said


def broken(corpus: Path, folder: Path, place: int, changed: Sample) -> RunConfig:
    """With one sample of five changed, in a folder of its own."""
    samples = [sample(number, picture(number)) for number in range(5)]
    samples[place] = changed
    write_stream(folder / "images", MediaKind.IMAGE, samples)
    return family_config(corpus, folder / "run", Family.IMAGE_QA, data__test={"image_text": [str(folder / "images")]}, layout__data=2)


FOUND = r"^data\.test\.image_text, sample 3 \(pair-0003 in images/00000\.tar\): "


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(question="what color ?", answer="\u200b"), "the question 'what color \\?' has an empty answer$"),
        (Question(question=" \u2060", answer="red"), "an empty question$"),
        (Question(question="what ?", answer="green"), "the answer 'green' is not among those of .*answers.txt; add it there$"),
    ],
)
def test_a_question_that_cannot_be_judged_is_told_by_its_row(corpus: Path, tmp_path: Path, question: Question, said: str) -> None:
    config = broken(corpus, tmp_path, 3, with_question(sample(3, picture(3)), question))
    with pytest.raises(UserError, match=FOUND + said):
        launch(config, partial(evaluate_untrained, answers=read_answers(corpus / "answers.txt")))
    assert not list(config.run_dir.glob("*")) if config.run_dir.exists() else True


def test_other_mistakes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sample(3, picture(3))
    config = broken(corpus, tmp_path, 3, replace(plain, record=replace(plain.record, captions=("a red circle", "\u200b"))))
    downstream = config.downstream
    assert downstream is not None
    retrieval = config.model_copy(update={"downstream": downstream.model_copy(update={"family": Family.IMAGE_RETRIEVAL})})
    with pytest.raises(UserError, match=FOUND + "an empty caption$"):
        launch(retrieval, evaluate_untrained)
    with pytest.raises(UserError, match=r"^--answers .*answers\.txt: only questions"):
        launch(retrieval, partial(evaluate_untrained, answers=read_answers(corpus / "answers.txt")))
    with pytest.raises(UserError, match=r"^data\.test\.video_text names no folder"):
        launch(config.model_copy(update={"downstream": downstream.model_copy(update={"family": Family.VIDEO_QA})}), evaluate_untrained)
    monkeypatch.setenv("PATH", "")
    captions = config.model_copy(update={"downstream": downstream.model_copy(update={"family": Family.IMAGE_CAPTION})})
    with pytest.raises(UserError, match=r"^no java here.*default-jre-headless$"):
        launch(captions, evaluate_untrained)
    assert not list(tmp_path.glob("run/*.json*"))


def test_a_split_without_questions(corpus: Path, tmp_path: Path) -> None:
    samples = [sample(number, picture(number)) for number in (0, 3, 6)]
    write_stream(tmp_path / "images", MediaKind.IMAGE, samples)
    config = family_config(corpus, tmp_path / "run", Family.IMAGE_QA, data__test={"image_text": [str(tmp_path / "images")]})
    with pytest.raises(UserError, match=r"^data\.test\.image_text has nothing for downstream\.family=image_qa"):
        launch(config, evaluate_untrained)


def test_the_command_takes_a_list(corpus: Path, tmp_path: Path) -> None:
    """And finds its mistakes before anything is started."""
    from typer.testing import CliRunner

    from megatron_mplug2.cli import app

    config = family_config(corpus, tmp_path / "run", Family.IMAGE_QA)
    write_resolved(config, tmp_path)
    (tmp_path / "answers.txt").write_text("red\nred\n")
    error = CliRunner().invoke(app, ["evaluate", str(tmp_path / "config.yaml"), "--answers", str(tmp_path / "answers.txt")]).exception
    assert isinstance(error, UserError) and "answers.txt, line 2: 'red' is there already" in str(error)
    (tmp_path / "answers.txt").write_text("red\ngreen\n")
    error = CliRunner().invoke(app, ["evaluate", str(tmp_path / "config.yaml"), "--answers", str(tmp_path / "answers.txt")]).exception
    assert isinstance(error, UserError) and str(tmp_path / "run") in str(error), "there is no checkpoint"
