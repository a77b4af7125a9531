"""What can be launched, whatever it runs: ranks of one job (`launchers.launching`), a tool or an array of it (`launchers.tool_job`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launchers.array import Array
from launchers.batch_script import JobSpec


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a job: one rank a task."""

    nodes: int
    tasks_per_node: int


class Launchable(Protocol):
    """A launch before anything is written."""

    @property
    def home(self) -> Path:
        """The folder, absolute, whose launches it joins: a run's, or that of a step of a study."""

    @property
    def command(self) -> tuple[str, ...]:
        """As typed, after `mplug2`."""

    @property
    def run_dir(self) -> Path | None:
        """Of the run that it reads and writes, absolute; None for a tool."""

    @property
    def shape(self) -> Shape: ...

    @property
    def array(self) -> Array | None: ...

    def spec(self, folder: Path) -> JobSpec:
        """The job's, if `folder` is that of the launch."""

    def write_inputs(self, folder: Path) -> None:
        """What the job reads beside its code."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A launch that has to end well before another one starts."""

    name: str
    job: str | None
    """None where it has."""
