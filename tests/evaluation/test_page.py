"""The page of a family's evaluation: what it says, and how a browser shows it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.split import Split
from megatron_mplug2.evaluation.families.evaluate import FamilyEvaluation
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction, Score
from megatron_mplug2.evaluation.page import SHOWN, best_and_worst, write_page
from tests.browser import browser, needs_browser
from tests.data_tools.report.test_report import Page
from tests.evaluation.families.corpus import BAD, family_config, write_splits
from tests.observability.report.folders import HOSTILE
from tests.observability.report.test_page_in_browser import SIZES, TEXTS, Shown, overlaps


def prediction(index: int, score: float, text: str = "", kind: Kind = Kind.ANSWER) -> Prediction:
    references = tuple(f"a circle {number} {text}" for number in range(7))
    asked = f"what is it? {text}" if kind is Kind.ANSWER else ""
    return Prediction(index=index, key=f"pair-{index}{text}", kind=kind, asked=asked, said=text, references=references, score=score)


def evaluation(family: Family, kind: Kind, text: str) -> FamilyEvaluation:
    """Of three clips or pictures that can be decoded."""
    predictions = tuple(prediction(index, score, text, kind) for index, score in ((0, 40.0), (3, 100.0), (4, 0.0)))
    scores = (Score(name="exact match", value=46.66, chance=20.0), Score(name=f"exact match: {text}", value=50.0))
    return FamilyEvaluation(family=family, findings=Findings(scores=scores, predictions=predictions, notes=(text,)), samples=3, left_out=())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("corpus")
    write_splits(folder)
    return family_config(folder, folder / "run", None)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 100])
def test_best_and_worst(count: int) -> None:
    predictions = [prediction(index, float(index * 37 % 11)) for index in range(count)]
    best, worst = best_and_worst(predictions)
    assert not {one.index for one in best} & {one.index for one in worst}
    assert len(best) + len(worst) == min(count, 2 * SHOWN)
    ordered = sorted(predictions, key=lambda one: -one.score)
    assert best == ordered[: len(best)]
    assert [one.score for one in worst] == sorted(one.score for one in ordered[len(best) :])[:SHOWN]


def test_it_stands_for_itself(config: RunConfig, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", evaluation(Family.VIDEO_QA, Kind.ANSWER, HOSTILE), config, Split.TEST, 1200)
    page = Page(tmp_path / "page.html")
    for told in (
        "test: video qa",
        "Test split, 3 samples, after step 1,200.",
        "exact match 46.7 20.0",
        "Answers: best",
        "said, 40 % right",
    ):
        assert told in page.text, told
    assert "and 2 more" in page.text and page.text.index("said, 100 %") < page.text.index("Answers: worst") < page.text.index("said, 0 %")
    assert "<script>document.title" in page.text and "script" not in page.tags and page.links == []
    assert len(page.pictures) == 3 * 3, "the phase has three frames of a clip"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_text_finds_is_shown_beside_what_it_tells_of(config: RunConfig, tmp_path: Path) -> None:
    found = [
        replace(prediction(0, 25.0, "told", Kind.TEXT_TO_MEDIA), found=4),
        replace(prediction(3, 100.0, "own", Kind.TEXT_TO_MEDIA), found=3),
    ]
    lost = [replace(prediction(1, 0.0, "lost", Kind.TEXT_TO_MEDIA), found=0)]
    findings = Findings(scores=(), predictions=(*found, *lost, prediction(5, 0.0, "a red circle", Kind.MEDIA_TO_TEXT)))
    retrieval = FamilyEvaluation(family=Family.IMAGE_RETRIEVAL, findings=findings, samples=12, left_out=())
    write_page(tmp_path / "page.html", retrieval, config, Split.TEST, 0)
    page = Page(tmp_path / "page.html")
    assert len(page.pictures) == 2 + 1 + 2 + 1
    assert "found; a right one at place 4" in page.text and page.text.count("its own") == 2
    assert "found; no right one among the candidates" in page.text


def test_what_cannot_be_decoded_now_has_no_picture(config: RunConfig, tmp_path: Path) -> None:
    findings = Findings(scores=(), predictions=(prediction(BAD, 0.0, "", Kind.CAPTION), prediction(0, 1.0, "said", Kind.CAPTION)))
    lost = FamilyEvaluation(family=Family.IMAGE_CAPTION, findings=findings, samples=2, left_out=())
    write_page(tmp_path / "page.html", lost, config, Split.TEST, 0)
    page = Page(tmp_path / "page.html")
    assert len(page.pictures) == 1 and "nothing" in page.text and "asked" not in page.text


@needs_browser
@pytest.mark.long
@pytest.mark.parametrize("text", ["", HOSTILE])
def test_nothing_overlaps(text: str, config: RunConfig, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(page, evaluation(Family.VIDEO_QA, Kind.ANSWER, text), config, Split.TEST, 1200)
    with browser(tmp_path / "profile") as window:
        for width, height in SIZES:
            session = window.open(page, width, height)
            inside = window.value(session, "document.documentElement.clientWidth")
            assert window.value(session, "document.documentElement.scrollWidth") <= inside <= width
            lines = [Shown(**line) for line in json.loads(window.value(session, TEXTS))]
            assert len(lines) > 30 and overlaps(lines) == []
            assert [line.text for line in lines if line.size < 11] == []
            assert [line.text for line in lines if line.box[0] < 0 or line.box[2] > inside] == []
            assert window.value(session, "Array.from(document.images).every(image => image.naturalWidth > 0)")
            assert window.value(session, "document.title") == "test: video qa"
        assert window.errors == []
