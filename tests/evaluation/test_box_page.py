"""Boxes on the pages of grounding: where they are drawn, by the page's text and in a browser."""

import json
import re
from pathlib import Path

import pytest

from data_tools.report.page import write_report
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.coordinates import in_square
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.split import Split
from megatron_mplug2.evaluation.families.evaluate import FamilyEvaluation
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction
from megatron_mplug2.evaluation.page import write_page
from tests.browser import browser, needs_browser
from tests.data.test_grounding import RESOLUTION, SIZES, grounding_config, make_grounding_corpus
from tests.data_tools.report.test_report import Page

RECTANGLE = re.compile(r"<rect class='(rim|right-box|said-box)' x='([-\d.]+)' y='([-\d.]+)' width='([-\d.]+)' height='([-\d.]+)'/>")
Rectangle = tuple[str, float, float, float, float]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grounding_corpus(tmp_path_factory.mktemp("grounding"), SIZES)


def rectangles(page: Path) -> list[Rectangle]:
    found = RECTANGLE.findall(page.read_text())
    return [(kind, float(x), float(y), float(width), float(height)) for kind, x, y, width, height in found]


def write(config: RunConfig, out: Path, said: str) -> None:
    """Of one phrase whose box is 10 20 40 60."""
    one = Prediction(index=1, key="one", kind=Kind.BOX, asked="the cross", said=said, references=("10 20 40 60",), score=50.0)
    findings = Findings(scores=(), predictions=(one,))
    write_page(out, FamilyEvaluation(family=Family.IMAGE_GROUNDING, findings=findings, samples=1, left_out=()), config, Split.TEST, 0)


def test_true_and_said_boxes_are_drawn(corpus: Path, tmp_path: Path) -> None:
    config, page = grounding_config(corpus, tmp_path / "run", [f"schedule.0.resolution={RESOLUTION}"]), tmp_path / "page.html"
    write(config, page, "0 8 32 64")
    right, said = (10.0, 20.0, 30.0, 40.0), (0.0, 8.0, 32.0, 56.0)
    assert rectangles(page) == [("rim", *right), ("rim", *said), ("right-box", *right), ("said-box", *said)]
    assert f"viewBox='0 0 {RESOLUTION} {RESOLUTION}'" in page.read_text()
    shown = Page(page)
    assert [picture.size for picture in shown.pictures] == [(RESOLUTION, RESOLUTION)] and shown.links == []
    write(config, page, "a cat")
    assert rectangles(page) == [("rim", *right), ("right-box", *right)], "what is no box is not drawn"


def test_a_report_draws_the_box_of_a_phrase(corpus: Path, tmp_path: Path) -> None:
    write_report(corpus / "shards/test/image_text", tmp_path / "report.html", pictures=SIZES["testA"] + SIZES["testB"])
    manifest = Manifest.load(corpus / "shards/test/image_text")
    regions = [(manifest.record(index).regions[0], manifest.facts(index)) for index in range(len(manifest))]
    drawn = {rounded(*numbers) for kind, *numbers in rectangles(tmp_path / "report.html") if kind == "right-box"}
    assert drawn == {rounded(*in_square(region.box, facts, FULL_VIEW, 160)) for region, facts in regions}
    assert all(region.phrases[0] in Page(tmp_path / "report.html").text for region, _ in regions)


def rounded(*numbers: float) -> tuple[float, ...]:
    return tuple(round(number, 1) for number in numbers)


PLACES = """JSON.stringify(['.boxed img', '.boxed .right-box', '.boxed .said-box'].map(name => {
    const place = document.querySelector(name).getBoundingClientRect();
    return [place.left, place.top, place.width, place.height]; }))"""


@needs_browser
@pytest.mark.long
@pytest.mark.parametrize(("width", "height"), [(1200, 900), (360, 640)])
def test_a_browser_puts_boxes_on_the_picture(corpus: Path, tmp_path: Path, width: int, height: int) -> None:
    config, page = grounding_config(corpus, tmp_path / "run", [f"schedule.0.resolution={RESOLUTION}"]), tmp_path / "page.html"
    write(config, page, "0 8 32 64")
    with browser(tmp_path / "profile") as window:
        session = window.open(page, width, height)
        picture, right, said = json.loads(window.value(session, PLACES))
        assert picture[2] == pytest.approx(picture[3]) and picture[2] > 200
        for place, box in ((right, (10, 20, 30, 40)), (said, (0, 8, 32, 56))):
            starts = (picture[0], picture[1], 0, 0)
            expected = [start + picture[2] * part / RESOLUTION for start, part in zip(starts, box, strict=True)]
            assert place == pytest.approx(expected, abs=2)
        assert window.errors == []
