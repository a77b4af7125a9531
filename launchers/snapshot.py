"""A copy of the code that is launched, with what git knows of it: a run goes on with what it began with, whatever is edited meanwhile."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launchers.launch_folder import CODE

PROJECT = Path(__file__).parents[1]
PACKAGES = ("megatron_mplug2", "launchers", "data_tools")
DIFF = "git.diff"


@dataclass(frozen=True, kw_only=True)
class GitState:
    commit: str | None
    """None outside a checkout, or without git."""
    diff: str
    """What the commit lacks, of files that git knows."""


def git_state() -> GitState:
    commit = _git("rev-parse", "HEAD")
    return GitState(commit=commit.strip() or None, diff=_git("diff", "HEAD") if commit else "")


def take_snapshot(folder: Path, state: GitState) -> None:
    """Copies the project's packages into `folder/code`, a folder for PYTHONPATH, and the diff to `folder/git.diff` where there is one."""
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, folder / CODE / package, ignore=shutil.ignore_patterns("__pycache__"))
    if state.diff:
        (folder / DIFF).write_text(state.diff, encoding="utf-8")


def _git(*arguments: str) -> str:
    """What git prints about the checkout that this code runs from; empty where it cannot."""
    if shutil.which("git") is None or not (PROJECT / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode else done.stdout
