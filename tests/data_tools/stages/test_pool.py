"""Pieces in processes that crash, hang and fail."""

import faulthandler
import gc
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_tools.sample import Fault, Reason
from data_tools.stages.pool import Faults, Slot, run_pieces
from megatron_mplug2.errors import UserError
from tests.garbage import garbage

PIECES, SAMPLES = 3, 4
ELEMENTS = 1 << 20
"""Of a tensor that torch computes on all threads that it has."""


def left_out(folder: Path, look: Callable[[int], object], timeout_s: float = 60.0) -> dict[int, Faults]:
    """Runs pieces, of which piece 1 calls `look` for each sample, and gives what was left out of each."""

    def make(piece: int, faults: Faults, slot: Slot) -> None:
        for number in range(SAMPLES):
            if number not in faults:
                slot.enter(number)
                if piece == 1:
                    look(number)
        slot.leave()
        (folder / str(piece)).write_bytes(pickle.dumps(dict(faults)))

    seen: list[int] = []
    pieces = list(run_pieces(iter(range(PIECES)), make, workers=2, sample_timeout_s=timeout_s, looked=seen.append))
    assert max(seen) <= PIECES * SAMPLES
    return {piece: pickle.loads((folder / str(piece)).read_bytes()) for piece in sorted(pieces)}


def test_all_pieces_are_done(tmp_path: Path) -> None:
    assert left_out(tmp_path, lambda number: None) == {0: {}, 1: {}, 2: {}}


def test_processes_leave_their_parents_garbage_alone(tmp_path: Path) -> None:
    """A process group among it would wait in its destructor for threads that a forked process hasn't."""

    def look(number: int) -> None:
        gc.collect()

    with garbage(tmp_path):
        assert left_out(tmp_path, look) == {0: {}, 1: {}, 2: {}}


def test_a_parent_that_has_used_threads_of_torch(tmp_path: Path) -> None:
    """OpenMP's: a forked process hasn't them, and would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(ELEMENTS).add_(1)
        assert left_out(tmp_path, lambda number: torch.ones(ELEMENTS).add_(1).min().item(), timeout_s=20.0)[1] == {}
    finally:
        torch.set_num_threads(before)


def test_a_sample_that_crashes_is_left_out(tmp_path: Path) -> None:
    """A real SIGSEGV; the other samples of its piece are looked at."""
    looked = tmp_path / "looked"

    def look(number: int) -> None:
        if number == 2:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        with looked.open("a") as file:
            file.write(f"{number}\n")

    fault = Fault(reason=Reason.CRASHED, detail=f"signal {int(signal.SIGSEGV)}")
    assert left_out(tmp_path, look) == {0: {}, 1: {2: fault}, 2: {}}
    assert looked.read_text().split()[-3:] == ["0", "1", "3"]


def test_two_samples_of_a_piece_crash(tmp_path: Path) -> None:
    def look(number: int) -> None:
        if number in (0, 3):
            os._exit(7)

    fault = Fault(reason=Reason.CRASHED, detail="exit status 7")
    assert left_out(tmp_path, look)[1] == {0: fault, 3: fault}


def test_a_sample_that_crashes_once_stays(tmp_path: Path) -> None:
    """As one does that the kernel kills for another's memory."""
    tried = tmp_path / "tried"

    def look(number: int) -> None:
        if number == 1 and not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert left_out(tmp_path, look)[1] == {}
    assert tried.exists()


def test_a_sample_that_hangs_is_left_out(tmp_path: Path) -> None:
    def look(number: int) -> None:
        while number == 3:
            time.sleep(0.01)

    assert left_out(tmp_path, look, timeout_s=1.0)[1] == {3: Fault(reason=Reason.HUNG)}


def test_a_defect_in_a_sample_is_told_without_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def look(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError("of one sample")

    assert left_out(tmp_path, look)[1] == {0: Fault(reason=Reason.CRASHED, detail="ZeroDivisionError: of one sample")}
    assert capfd.readouterr().err == ""


def test_a_persons_mistake_ends_all(tmp_path: Path) -> None:
    def look(number: int) -> None:
        raise UserError("no space left")

    with pytest.raises(UserError, match="no space left"):
        left_out(tmp_path, look)


def test_a_death_outside_any_sample_ends_all(tmp_path: Path) -> None:
    def make(piece: int, faults: Faults, slot: Slot) -> None:
        slot.leave()
        os._exit(3)

    with pytest.raises(UserError, match="exit status 3 outside any sample"):
        list(run_pieces(iter([0]), make, workers=1, sample_timeout_s=60.0))


def test_ending_early_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()

    def make(piece: int, faults: Faults, slot: Slot) -> None:
        (pids / str(os.getpid())).touch()
        while piece:
            time.sleep(0.01)

    running = run_pieces(iter(range(3)), make, workers=3, sample_timeout_s=60.0)
    assert next(running) == 0
    running.close()  # type: ignore[attr-defined]
    for pid in map(int, os.listdir(pids)):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
