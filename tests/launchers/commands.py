"""Commands of `mplug2` as its own tree reads them, for tests that run none; and what a job's script tells."""

from collections.abc import Sequence

from typer.core import TyperGroup
from typer.main import get_command

from launchers.command_line import Command, read_command
from megatron_mplug2 import cli
from megatron_mplug2.observability.job_events import Event


def read(words: Sequence[str]) -> Command:
    commands = get_command(cli.app)
    assert isinstance(commands, TyperGroup)
    return read_command(commands, words)


def event(what: str, code: int | None = None) -> Event:
    """Of a job's script."""
    return Event(at=1, job=7, restarts=0, event=what, nodes="node1", code=code)
