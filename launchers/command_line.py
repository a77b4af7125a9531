"""A command of `mplug2` before it runs: found among those that there are, and read as it would read its words itself."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from megatron_mplug2.errors import UserError

PART = "--part"
SUBMITTING = ("jobs", "launch", "study", "sweep")
"""Commands that have no place in a job."""


@dataclass(frozen=True, kw_only=True)
class Command:
    words: tuple[str, ...]
    """As typed after `mplug2`."""
    name: tuple[str, ...]
    """The first ones, such as `data shard`."""
    values: Mapping[str, Any]
    """What it read from the others, by parameter of its function."""
    divisible: bool
    """Whether several processes can share it, by `--part`."""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[len(self.name) :]

    def __str__(self) -> str:
        return f"mplug2 {shlex.join(self.words)}"


def commands_beside(context: typer.Context) -> TyperGroup:
    """All of them, seen from the one that runs."""
    root = context.find_root().command
    assert isinstance(root, TyperGroup)
    return root


def read_command(commands: TyperGroup, words: Sequence[str]) -> Command:
    """Raises UserError where there is no such command, it does not belong into a job, or would refuse its arguments."""
    typed = f"`mplug2 {shlex.join(words)}`"
    if any(letter in word for word in words for letter in "\n\r\0"):
        raise UserError(f"{typed!r}: a word has a line break or a NUL: a batch script cannot hold it")
    if words[:1] and words[0] in SUBMITTING:
        raise UserError(f"{typed}: this is no work for a job: name what it would launch")
    found: Any = commands
    rest = list(words)
    while isinstance(found, TyperGroup):
        found = _member(found, rest.pop(0) if rest else "", typed)
    name = tuple(words[: len(words) - len(rest)])
    try:
        read = found.make_context(f"mplug2 {' '.join(name)}", rest)
    except TyperException as error:
        raise UserError(f"{typed}: {_one_line(error.format_message())}") from None
    except typer.Exit:  # its help was asked for, and has been printed
        raise UserError(f"{typed}: prints help and does nothing else") from None
    divisible = any(PART in parameter.opts for parameter in found.params)
    return Command(words=tuple(words), name=name, values=read.params, divisible=divisible)


def _member(group: TyperGroup, name: str, typed: str) -> Any:
    if name in group.commands:
        return group.commands[name]
    alike = get_close_matches(name, group.commands, n=1) or sorted(group.commands)
    raise UserError(f"{typed}: no such command: {repr(name) + ' is unknown' if name else 'a word is missing'}; try {', '.join(alike)}")


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
