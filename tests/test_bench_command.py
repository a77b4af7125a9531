"""`mplug2 bench`, on a checkout with two small benchmarks: each runs in a process of its own."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from megatron_mplug2 import bench_command
from tests.refused import line_of

APP = Typer()
APP.command()(bench_command.bench)
QUICK = """
import os, pathlib
def write(name):
    pathlib.Path(os.environ["MPLUG2_BENCH_RESULTS"], name + ".json").write_text('{"figures": 1}')
write("quick")
"""
BROKEN = 'write = print\nwrite("broken")\nraise SystemExit(3)\n'


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout/benchmarks"
    folder.mkdir(parents=True)
    for name, text in (("quick", QUICK), ("broken", BROKEN), ("helper", "HELP = 1\n"), ("__init__", "")):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(bench_command, "CHECKOUT", folder.parent)
    return folder.parent


def command(*arguments: str) -> Result:
    return CliRunner().invoke(APP, list(arguments))


def refusal(*arguments: str) -> str:
    return line_of(command(*arguments))


def test_a_result_goes_where_it_is_asked_for(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "machine.json"
    assert command("quick", "--out", str(out)).stdout.splitlines() == [f"wrote {out}"]
    assert json.loads(out.read_text()) == {"figures": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkout", "machine.json"]


def test_a_result_may_be_named_after_the_gpu_too(checkout: Path, tmp_path: Path) -> None:
    (checkout / "benchmarks/card.py").write_text(QUICK.replace('write("quick")', "write(\n    f'card{\"_h100\"}')"))
    assert "card" in bench_command.bench_names(checkout)
    assert command("card", "--out", str(tmp_path / "machine.json")).exit_code == 0
    assert json.loads((tmp_path / "machine.json").read_text()) == {"figures": 1}


def test_a_benchmark_that_fails_leaves_no_result(checkout: Path, tmp_path: Path) -> None:
    assert command("broken", "--out", str(tmp_path / "machine.json")).exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkout"]


def test_of_all_those_that_fail_are_told_and_the_others_run(checkout: Path, tmp_path: Path) -> None:
    done = command("all", "--out", str(tmp_path))
    assert done.exit_code == 1 and done.stderr.splitlines() == ["failed: broken"]
    assert (tmp_path / "quick.json").is_file()


def test_bad_input_is_one_line(checkout: Path, tmp_path: Path) -> None:
    assert refusal("quik") == "no benchmark is called quik: did you mean quick?"
    assert refusal("helper") == "no benchmark is called helper: name one of broken, quick, or all"
    assert refusal("quick", "--out", str(tmp_path / "none/machine.json")).endswith("none is no folder: make it first")


def test_where_nothing_can_be_written_is_told_before_anything_runs(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal("broken", "--out", str(tmp_path)).endswith(f"it is a folder: name a file in it, such as {tmp_path}/broken.json")
    assert "cannot write into /proc" in refusal("broken", "--out", "/proc/machine.json")
    assert refusal("all", "--out", str(tmp_path / "file")).endswith("/file: File exists: name a folder for the results of all")
    assert "cannot write into /proc" in refusal("all", "--out", "/proc")


def test_without_a_checkout_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_command, "CHECKOUT", tmp_path)
    assert refusal("calibrate").endswith("benchmarks are not installed with the package, run them from a checkout")


def test_the_checkouts_own() -> None:
    names = bench_command.bench_names(bench_command.CHECKOUT)
    assert {"calibrate", "planner", "published", "step", "ceiling", "growth", "flops"} <= set(names) and not {
        "record",
        "ranks",
        "readme",
        "fits",
    } & set(names)
