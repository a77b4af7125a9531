"""A rank's exit code is left where the job's script looks for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from launchers.exit_notes import FOLDER, write_exit_note
from megatron_mplug2.errors import ExitCode

PROJECT = Path(__file__).parents[2]


def test_by_the_task_s_number(tmp_path: Path) -> None:
    write_exit_note(ExitCode.STOPPED, "", {FOLDER: str(tmp_path), "SLURM_PROCID": "12"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"12": "85\n"}


def test_nobody_asked(tmp_path: Path) -> None:
    write_exit_note(ExitCode.STOPPED, "", {"SLURM_PROCID": "12"})
    assert list(tmp_path.iterdir()) == []


def test_the_command_leaves_it(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), FOLDER: str(tmp_path), "SLURM_PROCID": "3"}
    command = [sys.executable, "-m", "megatron_mplug2.cli", "pretrain", "nowhere.yaml"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.MISTAKE
    code, why = (tmp_path / "3").read_text().splitlines()
    assert code == "2" and why.startswith("why: ") and "nowhere.yaml" in why and f"error: {why.removeprefix('why: ')}" in done.stderr


def test_by_torchrun_s_rank(tmp_path: Path) -> None:
    """Whose ranks of a node are all in one task."""
    write_exit_note(ExitCode.STOPPED, "", {FOLDER: str(tmp_path), "SLURM_PROCID": "1", "RANK": "12"})
    assert [path.name for path in tmp_path.iterdir()] == ["12"]


def test_a_defect_leaves_one_too(tmp_path: Path) -> None:
    """srun would tell of the ranks that it killed because of this one."""
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), FOLDER: str(tmp_path), "SLURM_PROCID": "3"}
    program = "import sys; from megatron_mplug2 import cli; cli.app = lambda **settings: [][1]; cli.main()"
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.FAILED and "IndexError" in done.stderr
    assert (tmp_path / "3").read_text() == "1\nwhy: IndexError: list index out of range\n"


def test_a_reason_is_a_part_of_a_line_of_json(tmp_path: Path) -> None:
    why = 'a "b"\n\\c \x1b[31m é' + "d" * 1000
    write_exit_note(ExitCode.MISTAKE, why, {FOLDER: str(tmp_path)})
    code, told = (tmp_path / "0").read_text().splitlines()
    assert code == "2" and told.isascii() and json.loads(f'"{told.removeprefix("why: ")}"') == why[:500]
