"""The files: nothing runs when they are read, each number is there once, and what isn't whole isn't written or read."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.storage import INDEX, StoredTensors, own_files, write
from megatron_mplug2.errors import UserError
from tests.checkpoint.runs import LAYOUTS, save
from tests.checkpoint.toy import Setup, Toy
from tests.ranks import run_ranks


def piece(rows: range, tensor: torch.Tensor) -> Piece:
    return Piece(key="weight/w", full_size=(6, 4), offsets=(rows.start, 0), tensor=tensor[rows.start : rows.stop])


NUMBERS = torch.arange(24.0).view(6, 4)


def write_rows(folder: Path, rows: list[range]) -> str:
    rank = int(os.environ["RANK"])
    try:
        write(folder, [piece(rows[rank], NUMBERS)])
    except RuntimeError as error:
        return str(error)
    return ""


def test_any_box_of_a_tensor_is_read_back(tmp_path: Path) -> None:
    assert run_ranks(2, write_rows, tmp_path, [range(2), range(2, 6)]) == ["", ""]
    stored = StoredTensors(tmp_path, [path.name for rank in (0, 1) for path in own_files(tmp_path, rank)])
    assert stored.sizes() == {"weight/w": (6, 4)}
    target = torch.zeros(6, 4, dtype=torch.float64)
    stored.read([piece(range(1, 4), target)])
    assert torch.equal(target[1:4], NUMBERS[1:4].double()) and not target[:1].any() and not target[4:].any()


@pytest.mark.parametrize("rows", [[range(2), range(3, 6)], [range(3), range(2, 6)]], ids=["gap", "overlap"])
def test_pieces_that_do_not_tile_are_refused_on_all_ranks(tmp_path: Path, rows: list[range]) -> None:
    said = run_ranks(2, write_rows, tmp_path, rows)
    assert all("Failed to validate global plan" in line for line in said), said
    assert not (tmp_path / INDEX).exists()


def save_and_size(folder: Path, setup: Setup) -> tuple[int, int]:
    """Numbers that this rank writes, and files' overhead that they may have."""
    toy = Toy(setup)
    save(folder, toy, 1)
    held = toy.held()
    return sum(box.values.numel() for _, box in held), 2000 * len(held)


@pytest.mark.parametrize("layout", ["one", "dp4 zero1", "tp2 dp2 zero1"])
def test_views_of_large_memory_are_written_as_what_they_show(tmp_path: Path, layout: str) -> None:
    """Parameters and states are views of one long buffer, which must not be written again with each."""
    setup = Setup(layout=LAYOUTS[layout], hidden=2048)
    numbers, overhead = (sum(sizes) for sizes in zip(*run_ranks(setup.layout.world_size, save_and_size, tmp_path, setup), strict=True))
    stored = sum(path.stat().st_size for path in tmp_path.glob("step-*/*.distcp"))
    assert 4 * numbers < stored < 4 * numbers + overhead


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda folder: pickle.dumps(Touch(folder / "ran")), "it names posix.system"),
        (lambda folder: b"cbuiltins\neval\n(V1+1\ntR.", "it names builtins.eval"),
        (lambda folder: b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", "it names torch.os.system"),
        (lambda folder: b"ctorch\nload\n.", "it names torch.load"),
        (lambda folder: pickle.dumps({"a": 1}), "has no attribute 'state_dict_metadata'"),
        (lambda folder: b"not a pickle", ""),
        (lambda folder: b"", "Ran out of input"),
    ],
    ids=["command", "eval", "dotted", "function of torch", "dictionary", "text", "empty"],
)
def test_a_strange_index_is_refused_and_runs_nothing(tmp_path: Path, content: Callable[[Path], bytes], said: str) -> None:
    (tmp_path / INDEX).write_bytes(content(tmp_path))
    with pytest.raises(UserError, match=f"{INDEX} is not a checkpoint's index: .*{said}"):
        StoredTensors(tmp_path, [])
    assert not (tmp_path / "ran").exists()


def test_an_index_of_files_that_are_not_the_checkpoints(tmp_path: Path) -> None:
    run_ranks(1, write_rows, tmp_path, [range(6)])
    with pytest.raises(UserError, match=r"refers to __0_0\.distcp, which is not a file of the checkpoint"):
        StoredTensors(tmp_path, ["other"])
