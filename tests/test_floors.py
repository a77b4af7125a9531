"""An import goes down only, and no two rooms import each other."""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = "megatron_mplug2"
ROOTS = (PACKAGE, "launchers", "data_tools")

FLOORS = (
    ("errors", "wording"),
    ("config",),
    ("data", "parallel"),
    ("models", "objectives", "checkpoint", "pages", "data_tools"),
    ("evaluation", "conversion", "observability", "planner", "launchers"),
    ("training",),
    ("downstream",),
    (
        "bench_command",
        "checkpoint_commands",
        "conversion_commands",
        "launch_commands",
        "layouts_command",
        "plan_command",
        "predict_command",
        "report_command",
    ),
    ("study_commands", "sweep_commands"),
    ("cli",),
)
"""Rooms from the ground up. Rooms of one floor may import one another in one direction."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    """The room of a dotted module, whatever may be named inside it; None outside the project."""
    parts = module.split(".")
    if parts[0] not in ROOTS:
        return None
    inside = parts[1:] if parts[0] == PACKAGE else parts
    return next((room for room in (".".join(inside[:2]), ".".join(inside[:1])) if room in FLOOR_OF), ".".join(inside))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import in a file, inside functions too; of `from a import b` the name a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@cache
def edges() -> list[tuple[str, str, str]]:
    """(room, room that it imports, where), for every import between rooms."""
    found = []
    # Files that an export copies are another program's: they import one another relatively, and nothing of this project.
    files = (path for root in ROOTS for path in (PROJECT / root).rglob("*.py") if not path.stem.endswith("_mplug2"))
    for file in sorted(files):
        place = file.relative_to(PROJECT)
        room = room_of(".".join(place.with_suffix("").parts))
        for line, name in imported(ast.parse(file.read_text())):
            other = room_of(name)
            if room and other and other != room:
                found.append((room, other, f"{place}:{line}"))
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room for edge in edges() for room in edge[:2]}
    assert rooms - FLOOR_OF.keys() == set()


def test_imports_go_down() -> None:
    assert [f"{where}: {room} imports {other}" for room, other, where in edges() if FLOOR_OF[other] > FLOOR_OF[room]] == []


def test_no_two_rooms_import_each_other() -> None:
    """Nor three in a circle. Imports go down, so a circle could only be on one floor."""
    below = {room: {other for _, other, _ in group} for room, group in groupby(sorted(edges()), key=lambda edge: edge[0])}
    while free := [room for room, others in below.items() if not others & below.keys()]:
        for room in free:
            del below[room]
    assert below == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import megatron_mplug2.data.batch as b", ["megatron_mplug2.data.batch"]),
        ("def f():\n    from megatron_mplug2 import training, data", ["megatron_mplug2.training", "megatron_mplug2.data"]),
        ("if x:\n    from launchers.demo import run_demo", ["launchers.demo.run_demo"]),
    ],
)
def test_imports_of_every_kind_are_found(text: str, names: list[str]) -> None:
    assert [name for _, name in imported(ast.parse(text))] == names


@pytest.mark.parametrize(
    ("module", "room"),
    [
        ("megatron_mplug2.data.batch", "data"),
        ("megatron_mplug2.cli", "cli"),
        ("launchers.demo.run_demo", "launchers"),
        ("launchers.local.launch", "launchers"),
        ("data_tools.commands", "data_tools"),
        ("torch.data", None),
    ],
)
def test_rooms(module: str, room: str | None) -> None:
    assert room_of(module) == room
