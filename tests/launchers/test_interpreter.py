"""A task on a node without the interpreter, by its own shell."""

import json
import os
import subprocess
import sys
from pathlib import Path

from launchers.exit_notes import FOLDER
from launchers.interpreter import NOT_THERE, looked_up


def run(python: str, notes: Path) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, FOLDER: str(notes), "SLURM_PROCID": "3", "SLURMD_NODENAME": "node2"}
    command = looked_up(python, (python, "-c", "import sys; sys.exit(f'{sys.argv[1:]}')", "it's", "$(touch obeyed)", ""))
    return subprocess.run(command, cwd=notes, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_node_that_has_it_runs_the_command_as_it_is(tmp_path: Path) -> None:
    done = run(sys.executable, tmp_path)
    assert (done.returncode, done.stderr) == (1, f"{['it' + chr(39) + 's', '$(touch obeyed)', '']}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_lacks_it_says_so(tmp_path: Path) -> None:
    python = '/nowhere/"a" \\\t$(touch obeyed)/python'
    why = f"node2 cannot run {python}: set python, or setup, in the cluster's profile, or leave the node out by --exclude"
    done = run(python, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (NOT_THERE, "", f"error: {why}\n")
    code, reason = (tmp_path / "3").read_text().splitlines()
    assert int(code) == NOT_THERE and json.loads(f'"{reason.removeprefix("why: ")}"') == why.replace("\t", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
