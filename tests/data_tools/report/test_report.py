"""What stands in the page."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.report import sheet, words
from data_tools.report.histogram import Histogram
from data_tools.report.page import write_report
from megatron_mplug2.cli import main
from megatron_mplug2.pages.markup import shown
from tests.data.corpus import picture
from tests.data_tools.report.corpora import RIGHT_TO_LEFT, write_hostile_corpus, write_known_corpus


class Page(HTMLParser):
    """Tags, texts and pictures of a page as a browser reads them."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pictures: list[Image.Image] = []
        self.words: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value is not None
                if tag == "img":
                    self.pictures.append(Image.open(io.BytesIO(base64.b64decode(value.removeprefix("data:image/jpeg;base64,")))))
                else:
                    self.links.append(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def means(pictures: list[Image.Image]) -> list[list[float]]:
    return [np.asarray(one).reshape(-1, 3).mean(0).tolist() for one in pictures]


def test_shards_are_counted_and_shown_as_the_model_sees_them(tmp_path: Path) -> None:
    place = write_known_corpus(tmp_path / "corpus")
    write_report(place, tmp_path / "report.html", pictures=10)
    page = Page(tmp_path / "report.html")
    assert all(size.size == (160, 160) for size in page.pictures)
    colors = means(page.pictures)
    pictures, views, frames = colors[:2], colors[2:10], colors[10:14]
    assert sorted(pictures) == [pytest.approx([0, 0, 200], abs=4), pytest.approx([200, 0, 0], abs=4)]
    assert views == [pytest.approx(pictures[0], abs=4)] * 8  # crops of a flat picture
    assert [frame[0] for frame in frames] == pytest.approx([20, 90, 160, 230], abs=6)
    assert len(colors) == 14 + 8
    assert "2 samples; texts of 2 of them were read: 2 texts" in page.text
    assert "Words: wall 2 blue 1 red 1" in page.text and "Stop words: a 1 the 1" in page.text
    assert "it gets brighter & brighter" in page.text and "the wall of the castle" in page.text
    assert page.links == [] and "script" not in page.tags
    assert not re.search("https?:|url\\(|@import", (tmp_path / "report.html").read_text())


def test_the_same_corpus_gives_the_same_page(tmp_path: Path) -> None:
    place = write_known_corpus(tmp_path / "corpus")
    for name in "ab":
        write_report(place, tmp_path / name, pictures=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    write_report(write_hostile_corpus(tmp_path / "corpus"), tmp_path / "report.html", pictures=20)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    page = Page(tmp_path / "report.html")
    assert "<script>document.title" in page.text and "script" not in page.tags
    assert RIGHT_TO_LEFT not in page.text and "half a character \N{REPLACEMENT CHARACTER}" in page.text
    assert "not decoded: not a readable picture" in page.text and "<b>broken</b>" in page.text
    assert page.tags.count("style") == page.tags.count("body") == 1


def test_a_listing_and_its_shards_tell_what_is_left_out_and_by_which_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.jpg").write_bytes(picture(0))
    (tmp_path / "silent.jpg").write_bytes(picture(1))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    samples = [{"image": f"{name}.jpg", "caption": f"a {name} one"} for name in ("good", "bad", "away")]
    (tmp_path / "list.json").write_text(json.dumps([*samples, {"image": "silent.jpg", "caption": " "}]))
    command(monkeypatch, "probe", "albef", tmp_path / "list.json", "--media", tmp_path, "--out", tmp_path / "listing", "--workers", 1)
    command(monkeypatch, "report", tmp_path / "listing", "--out", tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    _assert_tells_what_is_left_out(page)
    assert "Codecs: jpeg 1." in page.text
    command(monkeypatch, "shard", "albef", tmp_path / "list.json", "--media", tmp_path, "--out", tmp_path / "all" / "shards")
    command(monkeypatch, "report", tmp_path / "all", "--out", tmp_path / "shards.html")
    _assert_tells_what_is_left_out(Page(tmp_path / "shards.html"))


def _assert_tells_what_is_left_out(page: Page) -> None:
    assert "train/image_text 1" in page.text and len(page.pictures) == 1 + 8
    for told in ("media file missing probe 1", "media file not readable probe 1", "no caption or text probe 1", "not a readable picture"):
        assert told in page.text
    assert "a good one" in page.text and "a bad one" not in page.text


def test_a_page_has_no_more_pictures_than_it_can_carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST_BYTES", 20_000)
    write_report(write_hostile_corpus(tmp_path / "corpus"), tmp_path / "report.html", pictures=20)
    carried = sum(len(source) for source in re.findall(r'src="([^"]*)"', (tmp_path / "report.html").read_text()))
    assert 20_000 <= carried < 60_000


def test_words_are_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST_DISTINCT", 50)
    count = words.WordCount()
    letters = [chr(ord("a") + number) for number in range(26)]
    for first in letters:
        for second in letters:
            count.add(f"often often {first}{second}xyz the")
    assert count.top(1, stop_words=False) == [("often", 2 * 26 * 26)] and count.top(5, stop_words=True) == [("the", 26 * 26)]
    assert len(count.top(1000, stop_words=False)) <= 50


def test_bars_and_what_is_not_known() -> None:
    histogram = Histogram("sides", (1, 10, 100))
    histogram.add(np.array([0, 1, 9.9, 10, 5000, 7]))
    drawing = histogram.drawing()
    assert histogram.known == 5 and "sides, 1 not known" in drawing
    assert re.findall("<title>(.*?)</title>", drawing) == ["from 1, below 10: 3", "from 10, below 100: 1", "100 or more: 1"]


def test_shown_texts_are_short_and_visible() -> None:
    assert shown("a" * 300, 5) == "aaaaa…"
    assert shown("<&>\n\x00") == "&lt;&amp;&gt; \N{REPLACEMENT CHARACTER}"


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Exit code of `mplug2 data ...`."""
    monkeypatch.setattr(sys, "argv", ["mplug2", "data", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_known_corpus(tmp_path / "corpus")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken.html").touch()
    stream = place / "train" / "image_text"
    damaged, cut = write_known_corpus(tmp_path / "damaged"), write_known_corpus(tmp_path / "cut")
    (damaged / "train" / "image_text" / "manifest.json").write_text('{"version": 2')
    (cut / "train" / "image_text" / "00000.tar").write_bytes(b"")
    for folder, out, told in (
        (tmp_path / "empty", "a.html", "holds no manifest.json"),
        (tmp_path / "nowhere", "a.html", "nowhere: No such file or directory"),
        (damaged, "a.html", "is not readable as a corpus"),
        (cut, "a.html", "has 0 bytes instead of"),
        (stream, "taken.html", "exists already"),
        (stream, f"{'p' * 300}.html", "File name too long"),
    ):
        assert command(monkeypatch, "report", folder, "--out", tmp_path / out) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and told in error
    assert not (tmp_path / "a.html").exists()
