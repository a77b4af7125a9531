"""Commands of `mplug2` as its own tree reads them, for tests that run none."""

from collections.abc import Sequence

import typer
from typer.main import get_command

from launchers.command_line import Command, read_command
from launchers.launch_folder import Event
from megatron_mplug2 import cli


def context() -> typer.Context:
    """Of some command."""
    made = get_command(cli.app).make_context("mplug2", ["jobs"])
    assert isinstance(made, typer.Context)
    return made


def read(words: Sequence[str]) -> Command:
    return read_command(context(), words)


def event(what: str, code: int | None = None) -> Event:
    """Of a job's script."""
    return Event(at=1, job=7, restarts=0, event=what, nodes="node1", code=code)
