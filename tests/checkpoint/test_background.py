"""A save beside the steps writes what one within a step does, byte for byte, however far the steps have gone."""

from pathlib import Path

import pytest

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.background import BackgroundSaver
from megatron_mplug2.checkpoint.commit import Retention, folder_name
from megatron_mplug2.checkpoint.commit_file import FileSum, read_commit
from megatron_mplug2.config.training import Precision
from megatron_mplug2.errors import UserError
from tests.checkpoint.runs import LAYOUTS, state_of
from tests.checkpoint.toy import Setup, Toy
from tests.ranks import run_ranks


def both_ways(folder: Path, setup: Setup) -> list[dict[str, FileSum]]:
    """Checksums of the files of steps 2 and 3, saved in the step, and beside the next ones. The second within is saved during the first
    beside, whose end it waits for."""
    toy = Toy(setup)
    job = toy.weights, toy.optimizer, toy.topology, Retention(last=9)
    saver = BackgroundSaver()
    checkpoints = []
    for step in (2, 3):
        toy.train(step - 1, 1)
        checkpoints += [store.save(folder / "within", state_of(step), *job), folder / "beside" / folder_name(step)]
        saver.save(folder / "beside", state_of(step), *job)
    toy.train(3, 2)
    assert saver.wait() == checkpoints[-1] and saver.wait() is None
    return [{name: file for name, file in read_commit(path).files.items() if name.endswith(".distcp")} for path in checkpoints]


@pytest.mark.parametrize("layout", ["dp2 zero1", "tp2"])
@pytest.mark.parametrize("precision", list(Precision))
def test_the_same_bytes(tmp_path: Path, layout: str, precision: Precision) -> None:
    for second, second_beside, third, third_beside in run_ranks(2, both_ways, tmp_path, Setup(layout=LAYOUTS[layout], precision=precision)):
        assert second == second_beside and third == third_beside and second != third
        assert len(second) == 2


def fail_then_save(folder: Path) -> tuple[Path | None, str, Path | None]:
    toy = Toy(Setup(layout=LAYOUTS["dp2 zero1"]))
    job = toy.weights, toy.optimizer, toy.topology, Retention(last=9)
    saver = BackgroundSaver()
    (folder.parent / "file").touch()
    saver.save(folder.parent / "file/run", state_of(1), *job)
    toy.train(1, 2)
    quiet = saver.finished()
    try:
        saver.save(folder, state_of(3), *job)
    except UserError as error:
        line = str(error)
    saver.save(folder, state_of(3), *job)
    return quiet, line, saver.wait()


def test_a_failure_is_told_at_the_next_save_on_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    line = f"cannot write a checkpoint in {tmp_path}/file/run: Not a directory ({tmp_path}/file/run)"
    assert run_ranks(2, fail_then_save, folder) == [(None, line, folder / "step-00000003")] * 2
