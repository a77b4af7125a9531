"""The page of a timeline: a block for every piece of work, in its place."""

import re
from pathlib import Path

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.planner.drawing import LEFT, RIGHT, WIDTH, drawn, write_timeline
from megatron_mplug2.planner.simulation import PassTimes, feature_timeline, training_timeline

TIMES = PassTimes(forward=(0.01,) * 4, backward=(0.02,) * 4, messages=(0.001,) * 3)
BLOCKS = re.compile(r'<rect class="(\w+)" x="([0-9.]+)" y="(\d+)" width="([0-9.]+)"')


def test_every_piece_of_work_has_its_block() -> None:
    timeline = feature_timeline(TIMES, 8).then(0.005, training_timeline(TIMES, 8)).then(0.01)
    markup = "".join(drawn(timeline))
    blocks = BLOCKS.findall(markup)
    assert [kind for kind, *_ in blocks] == [event.work.kind.value for event in timeline.events]
    scale = (WIDTH - LEFT - RIGHT) / timeline.duration
    for (_, left, _, width), event in zip(blocks, timeline.events, strict=True):
        assert float(left) == pytest.approx(LEFT + scale * event.begin, abs=0.02)
        assert float(width) == pytest.approx(scale * (event.end - event.begin), abs=0.02)
    assert len({top for _, _, top, _ in blocks}) == 4


def test_the_legend_has_the_kinds_that_are_there() -> None:
    markup = "".join(drawn(training_timeline(TIMES, 2)))
    assert 'class="key forward"' in markup and "key features" not in markup


def test_the_page_stands_for_itself(tmp_path: Path) -> None:
    write_timeline(tmp_path / "step.html", "base <1>", "a note", training_timeline(TIMES, 8))
    text = (tmp_path / "step.html").read_text()
    assert "base &lt;1&gt;" in text and "http:" not in text and "https:" not in text
    assert list(tmp_path.iterdir()) == [tmp_path / "step.html"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write .*step\.html: "):
        write_timeline(tmp_path / "file" / "step.html", "t", "n", training_timeline(TIMES, 2))
