"""The report: table, plots and page of points that are measured, failed, and cannot be run."""

import io
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from launchers.sweep.page import DISTURBED, write_report
from launchers.sweep.plots import plots
from launchers.sweep.points import Sweep
from launchers.sweep.results import Failure, Row, add_rows
from launchers.sweep.scaling import HEAD, cells, columns, figures, megabytes
from launchers.sweep.state import SweepState, look
from megatron_mplug2.errors import UserError
from tests.browser import browser, needs_browser
from tests.launchers.sweep.sweeps import sweep_of, write_run
from tests.observability.report.folders import HOSTILE


def measured(folder: Path, **keys: object) -> tuple[Sweep, SweepState]:
    """One, two and four ranks on a machine of two cores, the last twice; one of the points of two ranks has died."""
    sizes = {"node_ranks": 4, "tensor": [1, 2], "data": [1, 2], "pipeline": [1, 2]}
    sweep = sweep_of(folder, **{**sizes, **keys})
    died, *others = (point for point in sweep.points if point.layout.ranks == 2)
    add_rows(sweep.folder, [failed_row(died.digest, sweep)])
    for point in [*others, *(point for point in sweep.points if point.layout.ranks != 2)]:
        write_run(point, step_s=1 / point.layout.ranks**0.5, cores=2)
    return sweep, look(sweep, list)


def failed_row(digest: str, sweep: Sweep) -> Row:
    point = next(point for point in sweep.points if point.digest == digest)
    failure = Failure(code=1, reason=f"out of luck {HOSTILE}")
    return Row(digest=digest, layout=point.layout, global_batch=32, at=1.0, commit=None, failed=failure)


def test_efficiency_is_that_of_points_with_cores_of_their_own(tmp_path: Path) -> None:
    _, state = measured(tmp_path)
    found = figures(state.points)
    assert [each.ranks for each in found] == [1, 2, 2, 4, 4, 4]
    assert [each.efficiency for each in found] == [1.0, pytest.approx(2**-0.5), pytest.approx(2**-0.5), None, None, None]
    lines = columns([HEAD, *(cells(each) for each in found)])
    assert lines[0].split()[:4] == ["point", "ranks", "batch", "samples/s"]
    assert "71%" in lines[2] and not lines[2].endswith("oversubscribed")
    assert "%" not in lines[4].split("20%")[0] and lines[4].endswith("oversubscribed")


def test_without_a_point_of_its_own_cores_there_is_no_efficiency(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, data=[2])
    write_run(sweep.points[0], cores=1)
    (only,) = figures(look(sweep, list).points)
    assert only.oversubscribed and only.efficiency is None
    assert "efficiency" not in {plot.name for plot in plots([only], sweep.config.scaling)}


def test_a_point_that_was_disturbed_has_no_efficiency(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, data=[1, 2])
    write_run(sweep.points[0], cores=2)
    write_run(sweep.points[1], cores=2, others=1.2)
    state = look(sweep, list)
    alone, disturbed = figures(state.points)
    assert (alone.efficiency, disturbed.efficiency) == (1.0, None)
    assert cells(alone)[-1] == "" and cells(disturbed)[-1] == "others took 1.2 cores"
    assert DISTURBED in write_report(sweep, state, tmp_path / "out")[0].read_text()


def test_a_disturbed_point_is_no_reference(tmp_path: Path) -> None:
    """It may have been the quickest."""
    sweep = sweep_of(tmp_path, data=[1, 2], recompute=["none", "full"])
    for point, others in zip(sweep.points, (1.2, 0, 0, 0), strict=True):
        write_run(point, cores=2, others=others)
    assert [each.efficiency for each in figures(look(sweep, list).points)] == [None] * 4


def test_the_page_stands_for_itself(tmp_path: Path) -> None:
    sweep, state = measured(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mfu.png").write_text("of an older report")
    page, *pictures = write_report(sweep, state, tmp_path / "out")
    assert [path.stem for path in pictures] == ["throughput", "efficiency", "step", "tflops", "memory", "communication", "sent"]
    for path in pictures:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert picture.format == "PNG" and picture.width > 800
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 7 and not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "Points: 6 measured, 1 failed, 1 cannot be run." in text and "<script>" not in text
    assert "out of luck" in text and "= 8 ranks do not fill 1 node of 4" in text and "share them in turns" in text
    assert sorted((tmp_path / "out").iterdir()) == sorted([page, *pictures]), "nothing half-written is left, and nothing old"


def test_bytes_of_every_kind_of_parallelism_are_told(tmp_path: Path) -> None:
    """One rank sends nothing, two tensor-parallel ones sums, two stages messages, two replicas gradients and VLC's features."""
    sweep, state = measured(tmp_path)
    found = {(each.row.layout.tensor, each.row.layout.pipeline, each.row.layout.data): each for each in figures(state.points)}
    kinds = {layout: [name for name, size in asdict(each.sent).items() if size] for layout, each in found.items() if each.sent is not None}
    assert kinds[1, 1, 1] == [] and cells(found[1, 1, 1])[HEAD.index("sent MB")] == "0"
    assert {tuple(kinds[layout]) for layout in kinds if sum(layout) == 4} < {("tensor",), ("pipeline",), ("features", "data")}
    assert {tuple(kinds[layout]) for layout in kinds if sum(layout) == 5} == {
        ("tensor", "pipeline"),
        ("tensor", "features", "data"),
        ("pipeline", "data"),  # the features are another stage's
    }
    page, *_ = write_report(sweep, state, tmp_path / "out")
    text = page.read_text()
    assert "Sent by a rank in a step" in text and "gradients and weights" in text
    for each in found.values():
        assert each.sent is not None and cells(each)[HEAD.index("sent MB")] == megabytes(each.sent.total)
        assert f"<td>{megabytes(each.sent.total)}</td>" in text


def test_nothing_measured_is_one_line(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    with pytest.raises(UserError, match="has no measured points yet: `mplug2 sweep status`"):
        write_report(sweep, look(sweep, list), tmp_path / "out")


@needs_browser
@pytest.mark.long
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int) -> None:
    sweep, state = measured(tmp_path)
    page, *_ = write_report(sweep, state, tmp_path / "out")
    with browser(tmp_path / "profile") as window:
        session = window.open(page, width)
        assert window.value(session, "document.documentElement.scrollWidth") <= width
        shown = "Array.from(document.images).filter(image => image.naturalWidth > 800 && image.clientWidth > 300).length"
        assert window.value(session, shown) == 7
        assert window.errors == []
