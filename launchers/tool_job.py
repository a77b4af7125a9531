"""A command that is one process, not ranks that meet (a data stage, an export, a report), as a job or as an array of them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from launchers.array import Array, part_command
from launchers.batch_script import JobSpec
from launchers.cluster import Device, SlurmConfig
from launchers.command_line import PART, Command
from launchers.launchable import Launchable, Shape
from launchers.launching import Work, check_path, mplug2, plan, python, request_of
from megatron_mplug2.errors import UserError

JOBS = Path("runs/jobs")
"""Launches of commands that have no run folder."""
_ONE_PROCESS = Shape(nodes=1, tasks_per_node=1)


@dataclass(frozen=True, kw_only=True)
class ToolPlan:
    """See `launchers.launching.Launchable`."""

    run: Command
    slurm: SlurmConfig
    home: Path
    array: Array | None
    shape: Shape = _ONE_PROCESS
    run_dir: None = None

    @property
    def command(self) -> tuple[str, ...]:
        return self.run.words

    def spec(self, folder: Path) -> JobSpec:
        name = (*mplug2(self.slurm), *self.run.name)
        command = (*name, *self.run.arguments) if self.array is None else part_command(name, self.run.arguments, self.array)
        return JobSpec(
            name=self.home.name,
            command=command,
            python=python(self.slurm),
            folder=folder,
            work_dir=Path.cwd(),
            run_dir=self.home,
            nodes=1,
            tasks_per_node=1,
            slurm=self.slurm,
            array=self.array,
        )

    def write_inputs(self, folder: Path) -> None:
        """None: it reads what its words name."""


def plan_command(
    command: Command, slurm: SlurmConfig, *, nodes: int | None = None, array: Array | None = None, home: Path | None = None
) -> Launchable:
    """The launch of any command: of ranks as `launchers.launching.plan` says; else of one process with the CPUs and the memory of one of
    the profile's tasks and no GPU, or of an array of such. Without a `home` the launch belongs to the run, or to `home_of(command)`.

    Raises UserError where the command, or its config, does not fit the cluster, `nodes` or `array`.
    """
    check_array(command, array)
    if command.name[0] in tuple(Work):
        return replace(plan(request_of(command, nodes), slurm, home), command=command.words)
    if nodes is not None:
        raise UserError(f"--nodes {nodes}: `{command}` is one process; a data stage is shared out by --parts")
    home = home or home_of(command)
    check_path("the launch's folder", home, slurm)
    return ToolPlan(run=command, slurm=_one_task(slurm), home=home, array=array)


def check_array(command: Command, array: Array | None) -> None:
    """Raises UserError where the command has no parts, or names one itself."""
    if array is not None and not command.divisible:
        raise UserError(f"`{command}` has no {PART}, and cannot be shared out: leave out the number of parts")
    if array is not None and any(word.partition("=")[0] == PART for word in command.arguments):
        raise UserError(f"`{command}`: every task of an array gets its own {PART}: leave it out")


def home_of(command: Command) -> Path:
    """The same for the same command in the same folder, so that it is known while its job waits or runs, and not submitted twice."""
    digest = hashlib.sha256("\0".join((str(Path.cwd()), *command.words)).encode("utf-8", "surrogateescape")).hexdigest()
    return JOBS.resolve() / f"{'-'.join(command.name)}-{digest[:8]}"


def _one_task(slurm: SlurmConfig) -> SlurmConfig:
    # All memory of a node (0) cannot be divided without its size: the partition's default for so many CPUs then.
    memory = slurm.memory_gb and max(1, slurm.memory_gb // slurm.tasks_per_node)
    return slurm.model_copy(update={"device": Device.CPU, "memory_gb": memory or None, "tasks_per_node": 1})
