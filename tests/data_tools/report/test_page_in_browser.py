"""The page as a browser shows it."""

import base64
from pathlib import Path

import pytest

from data_tools.report.page import write_report
from tests.browser import browser, needs_browser
from tests.data_tools.report.corpora import write_hostile_corpus

WIDTHS = (400, 1280)


@needs_browser
@pytest.mark.long
def test_a_hostile_corpus_fits_a_telephone_and_a_desk_without_complaint(tmp_path: Path) -> None:
    place = write_hostile_corpus(tmp_path / "corpus")
    write_report(place, tmp_path / "report.html", pictures=12)
    with browser(tmp_path / "profile") as window:
        for width in WIDTHS:
            session = window.open(tmp_path / "report.html", width)
            assert window.value(session, "document.documentElement.scrollWidth") <= width
            sizes = window.value(session, "Array.from(document.images).map(image => image.complete && image.naturalWidth)")
            assert len(sizes) > 20 and set(sizes) == {160}
            assert window.value(session, "document.scripts.length + document.links.length + document.forms.length") == 0
            assert window.value(session, "document.querySelectorAll('svg rect').length") > 5
            assert window.value(session, "document.title") == "Corpus corpus"
            picture = window.call("Page.captureScreenshot", session)["data"]
            assert base64.b64decode(picture).startswith(b"\x89PNG")
        assert window.errors == []
