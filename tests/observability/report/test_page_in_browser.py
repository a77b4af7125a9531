"""The page as a browser shows it, on a desk and on a telephone."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from megatron_mplug2.observability.report.page import write_run_report
from tests.browser import browser, needs_browser
from tests.observability.report.folders import HOSTILE, write_finished_run

SIZES = ((1280, 800), (400, 800))

TEXTS = """
(() => {
  const clips = new Map();
  function clipOf(element) {
    if (!element || element === document.documentElement) return [-1e9, -1e9, 1e9, 1e9];
    if (!clips.has(element)) {
      let [left, top, right, bottom] = clipOf(element.parentElement);
      if (element !== document.body && getComputedStyle(element).overflowX !== 'visible' && element.tagName !== 'svg') {
        const box = element.getBoundingClientRect();
        [left, top] = [Math.max(left, box.left), Math.max(top, box.top)];
        [right, bottom] = [Math.min(right, box.right), Math.min(bottom, box.bottom)];
      }
      clips.set(element, [left, top, right, bottom]);
    }
    return clips.get(element);
  }
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.tagName === 'title' || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const [left, top, right, bottom] = clipOf(parent);
    const scale = parent.getScreenCTM ? parent.getScreenCTM().a : 1;
    for (const box of range.getClientRects()) {
      const seen = [Math.max(left, box.left), Math.max(top, box.top), Math.min(right, box.right), Math.min(bottom, box.bottom)];
      if (seen[2] - seen[0] > 1 && seen[3] - seen[1] > 1)
        found.push({text: node.data.trim().slice(0, 40), box: seen, size: parseFloat(getComputedStyle(parent).fontSize) * scale});
    }
  }
  return JSON.stringify(found);
})()
"""
"""Of every line of text that is to be seen: its beginning, its box (left, top, right, bottom) and the size of its letters, in pixels."""

CUT_OFF = """
Array.from(document.querySelectorAll('svg.plot text')).filter(text => {
  const box = text.getBoundingClientRect(), frame = text.closest('svg').getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
}).map(text => text.textContent)
"""
WITHOUT_UNITS = """
Array.from(document.querySelectorAll('svg.plot')).filter(plot =>
  !['.x-title', '.y-title'].every(kind => plot.querySelector(kind)?.textContent.trim()) || !plot.getAttribute('aria-label')).length
"""


@dataclass(frozen=True)
class Shown:
    """A line of text."""

    text: str
    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    size: float = 12.0


def overlaps(lines: list[Shown]) -> list[tuple[str, str]]:
    """Texts that lie on one another by more than what letters leave free above and below."""
    found = []
    ordered = sorted(lines, key=lambda line: line.box[1])
    for place, one in enumerate(ordered):
        for other in ordered[place + 1 :]:
            if other.box[1] > one.box[3] - 3:
                break
            if min(one.box[2], other.box[2]) - max(one.box[0], other.box[0]) > 1:
                found.append((one.text, other.text))
    return found


@needs_browser
@pytest.mark.long
@pytest.mark.parametrize("text", ["", HOSTILE])
def test_nothing_overlaps_and_every_plot_has_units(text: str, tmp_path: Path) -> None:
    write_finished_run(tmp_path / "run", "layout.pipeline=2", "layout.data=1", text=text)
    page = tmp_path / "report.html"
    write_run_report(tmp_path / "run", page)
    with browser(tmp_path / "profile") as window:
        for width, height in SIZES:
            session = window.open(page, width, height)
            window.value(session, "document.querySelectorAll('details').forEach(details => { details.open = true }) || 0")
            inside = window.value(session, "document.documentElement.clientWidth")  # without the scroll bar
            assert window.value(session, "document.documentElement.scrollWidth") <= inside <= width
            lines = [Shown(**line) for line in json.loads(window.value(session, TEXTS))]
            assert len(lines) > 300 and overlaps(lines) == []
            assert [line.text for line in lines if line.size < 11] == []
            assert [line.text for line in lines if line.box[0] < 0 or line.box[2] > inside] == []
            assert window.value(session, "document.querySelectorAll('svg.plot').length") >= 15
            assert window.value(session, WITHOUT_UNITS) == 0 and window.value(session, CUT_OFF) == []
            assert window.value(session, "document.title") == "Run demo"
            picture = window.call("Page.captureScreenshot", session)["data"]
            assert base64.b64decode(picture).startswith(b"\x89PNG")
        assert window.errors == []


def test_overlaps_are_found() -> None:
    lines = [Shown("a", (0, 0, 10, 15)), Shown("below a", (0, 14, 10, 30)), Shown("on both", (5, 8, 20, 20)), Shown("by", (20, 0, 30, 30))]
    assert overlaps(lines) == [("a", "on both"), ("on both", "below a")]
