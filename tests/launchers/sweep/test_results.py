"""The results file: rows that outlive a kill, and what is said of those that did not."""

import os
import signal
from pathlib import Path

import pytest
from pydantic import ValidationError

from launchers.sweep.config import Recompute
from launchers.sweep.points import Layout
from launchers.sweep.results import RESULTS, Failure, Row, Spread, add_rows, read_results
from megatron_mplug2.errors import UserError

LAYOUT = Layout(nodes=1, tensor=1, pipeline=1, data=1, microbatch=1, recompute=Recompute.NONE)


def row(digest: str, reason: str = "it said nothing") -> Row:
    return Row(digest=digest, layout=LAYOUT, global_batch=8, at=1.0, commit=None, failed=Failure(code=1, reason=reason))


def test_a_newer_row_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    add_rows(tmp_path, [row("a"), row("b")])
    add_rows(tmp_path, [row("a", "another reason"), row("c")])
    found = read_results(tmp_path)
    assert found.rows == {"a": row("a", "another reason"), "b": row("b"), "c": row("c")} and found.spoilt == ()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".results.jsonl.lock", RESULTS], "nothing half-written is left"


def test_what_a_killed_writer_leaves_goes_with_the_next_row(tmp_path: Path) -> None:
    writer = os.fork()
    if not writer:
        Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign, return-value]
        add_rows(tmp_path, [row("a")])
    assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == -signal.SIGKILL
    add_rows(tmp_path, [row("b")])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".results.jsonl.lock", RESULTS]


def test_a_row_that_is_cut_in_half_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    add_rows(tmp_path, [row("a"), row("b"), row("c")])
    path = tmp_path / RESULTS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][: len(lines[1]) // 2], lines[2]]) + "\n")
    found = read_results(tmp_path)
    assert list(found.rows) == ["a", "c"]
    assert found.spoilt == (f"{path}: row 2 is cut off or spoilt and is left out: `mplug2 sweep run` measures its point again",)
    add_rows(tmp_path, [row("b")])
    assert set(read_results(tmp_path).rows) == {"a", "b", "c"} and not read_results(tmp_path).spoilt


def test_rows_are_read_strictly(tmp_path: Path) -> None:
    both = row("a").model_dump() | {"failed": None}
    lines = [row("a").model_dump_json(), row("b").model_dump_json()[:-1] + ', "more": 1}', str(both), "", "\udcff"]
    (tmp_path / RESULTS).write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    found = read_results(tmp_path)
    assert list(found.rows) == ["a"] and [line.partition(": row ")[2][0] for line in found.spoilt] == ["2", "3", "4", "5"]


def test_quartiles_that_are_out_of_order_are_none() -> None:
    with pytest.raises(ValidationError, match="quartiles stand around their median"):
        Spread(low=3, median=2, high=4)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*state/results\.jsonl: ") as error:
        add_rows(tmp_path / "state", [row("a")])
    assert "\n" not in str(error.value)
