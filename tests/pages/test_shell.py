"""Pages are whole or not there, and what strangers wrote in them is text."""

from pathlib import Path

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.pages.markup import verbatim
from megatron_mplug2.pages.shell import page, replace_page


def test_a_page_replaces_an_older_one(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    for title in ("one", "half a character \ud800"):
        replace_page(out, page(title, ["<p>text</p>"], "p { margin: 0 }"))
    assert "<title>half a character ?</title>" in out.read_text() and "p { margin: 0 }" in out.read_text()
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*folder: Is a directory$"):
        replace_page(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_verbatim_keeps_lines_and_nothing_hidden() -> None:
    assert verbatim("a: <b>\n  c: \x1b[31m\u202e") == "a: &lt;b&gt;\n  c: \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"
