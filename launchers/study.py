"""A whole study in one file: named steps, each a command of `mplug2`, and what each comes after."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from launchers.array import Array
from launchers.command_line import Command
from launchers.tool_job import check_array
from launchers.yaml_file import read_yaml
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.errors import UserError

StepName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""It becomes the name of a folder."""


class StepConfig(Frozen):
    name: StepName
    run: str
    """As typed after `mplug2`. Quotes hold together what belongs together, as in a shell; nothing else is interpreted."""
    after: tuple[StepName, ...] = ()
    """Steps that have to end well first."""
    parts: int | None = Field(default=None, gt=0)
    """On SLURM, tasks of an array that share a data stage. This machine's processes share it without them."""
    at_once: int | None = Field(default=None, gt=0)
    """Most of these that run at the same time."""

    @model_validator(mode="after")
    def _check(self) -> "StepConfig":
        if self.at_once is not None and self.parts is None:
            raise ValueError("at_once bounds an array: give its parts too")
        return self


class StudyConfig(Frozen):
    folder: Path
    """Where its state and the logs of its jobs lie; of storage that the nodes share. Relative to the current folder, as all paths."""
    steps: tuple[StepConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "StudyConfig":
        names = [step.name for step in self.steps]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two steps are called {twice[0]}: name one of them otherwise")
        for step in self.steps:
            if unknown := [name for name in step.after if name not in names]:
                raise ValueError(f"step {step.name} comes after {unknown[0]}, which is no step: there are {', '.join(names)}")
        try:
            _in_order(self.steps)
        except CycleError as error:
            raise ValueError(f"steps wait for one another: {' -> '.join(reversed(error.args[1]))}: take out one `after`") from None
        return self


@dataclass(frozen=True, kw_only=True)
class Step:
    name: str
    command: Command
    after: tuple[str, ...]
    array: Array | None
    home: Path
    """Its folder in the study's, which `mplug2 jobs` takes like a run's."""


@dataclass(frozen=True, kw_only=True)
class Study:
    folder: Path
    steps: tuple[Step, ...]
    """In an order in which each comes after those that it needs."""


def load_study(path: Path, read: Callable[[Sequence[str]], Command]) -> Study:
    """Reads a study with all its commands, which `read` knows (`launchers.command_line`); runs none. Raises UserError, in one line."""
    config = read_yaml(StudyConfig, path, f"study {path}", "name a file like configs/study/demo.yaml")
    folder = config.folder.resolve()
    return Study(folder=folder, steps=tuple(_step(step, folder, path, read) for step in _in_order(config.steps)))


def _in_order(steps: Sequence[StepConfig]) -> list[StepConfig]:
    """Raises CycleError."""
    named = {step.name: step for step in steps}
    return [named[name] for name in TopologicalSorter({step.name: step.after for step in steps}).static_order()]


def _step(config: StepConfig, folder: Path, path: Path, read: Callable[[Sequence[str]], Command]) -> Step:
    array = None if config.parts is None else Array(parts=config.parts, at_once=config.at_once)
    try:
        command = read(shlex.split(config.run))
        check_array(command, array)
    except (UserError, ValueError) as error:  # a quote that is not closed is a ValueError
        raise UserError(f"{path}: step {config.name}: {str(error)[0].lower()}{str(error)[1:]}") from None
    return Step(name=config.name, command=command, after=config.after, array=array, home=folder / config.name)
