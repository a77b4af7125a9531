"""From a config and a cluster to a job: its shape, its folder, its submission."""

import shutil
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from launchers import health, queue
from launchers.batch_script import JobSpec, render
from launchers.cluster import SlurmConfig
from launchers.launch_folder import (
    LAUNCHES,
    SCRIPT,
    Event,
    Launch,
    append_event,
    launch_folders,
    locked,
    new_folder,
    next_folder,
    read_launch,
    write_launch,
)
from launchers.layout_rules import layout_overrides
from launchers.origin import Origin, write_origin
from launchers.snapshot import git_state, take_snapshot
from megatron_mplug2.config.load import RESOLVED_NAME, load_config, write_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError

_IN_CONTAINERS = "python3"


class Work(StrEnum):
    """Commands that run on every rank."""

    PRETRAIN = "pretrain"
    EVALUATE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for."""

    work: Work
    config: Path
    overrides: tuple[str, ...] = ()
    nodes: int | None = None
    """None: as many as the layout needs."""

    def command(self) -> tuple[str, ...]:
        """After `mplug2`."""
        return (self.work, str(self.config), *self.overrides)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a job: one rank a task."""

    nodes: int
    tasks_per_node: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A launch before anything is written."""

    request: Request
    run: RunConfig
    shape: Shape
    slurm: SlurmConfig

    @property
    def python(self) -> str:
        """On the nodes."""
        return self.slurm.python or (_IN_CONTAINERS if self.slurm.container else sys.executable)

    def origin(self) -> Origin:
        return Origin(slurm=self.slurm.model_copy(update={"python": self.python}), work_dir=Path.cwd())

    def spec(self, folder: Path) -> JobSpec:
        command = (self.python, "-m", "megatron_mplug2.cli", self.request.work, str(folder / RESOLVED_NAME))
        return JobSpec(
            name=self.run.name,
            command=command,
            folder=folder,
            work_dir=Path.cwd(),
            run_dir=self.run.run_dir.resolve(),
            nodes=self.shape.nodes,
            tasks_per_node=self.shape.tasks_per_node,
            slurm=self.slurm,
            check=health.command(self.python, folder, self.slurm),
        )


def plan(request: Request, slurm: SlurmConfig) -> Plan:
    """Checks the config and fits it to the cluster. Raises UserError."""
    run = load_config(request.config, request.overrides)
    if request.nodes is not None:
        check_nodes(request.nodes, slurm)
        changes = layout_overrides(run, request.nodes * slurm.tasks_per_node)
        run = load_config(request.config, [*request.overrides, *changes])
    shape = _shape(run.layout.world_size, slurm)
    _check_paths(run.run_dir.resolve(), slurm)
    return Plan(request=request, run=run, shape=shape, slurm=slurm)


def _shape(world_size: int, slurm: SlurmConfig) -> Shape:
    full = slurm.tasks_per_node
    if world_size % min(full, world_size):
        raise UserError(f"layout asks for {world_size} ranks, which do not fill nodes of {full}: set --nodes, or layout.data")
    nodes = -(-world_size // full)
    check_nodes(nodes, slurm)
    return Shape(nodes=nodes, tasks_per_node=min(full, world_size))


def check_nodes(nodes: int, slurm: SlurmConfig) -> None:
    """Raises UserError where a cluster has not so many."""
    if nodes > slurm.max_nodes:
        asked = f"{nodes * slurm.tasks_per_node} ranks on {nodes} nodes"
        raise UserError(f"{asked} are more than the cluster's {slurm.max_nodes} nodes: lower layout.data or --nodes")


def _check_paths(run_dir: Path, slurm: SlurmConfig) -> None:
    """What neither sbatch nor a container's mounts can quote."""
    refused = "\n\r\0" + (":," if slurm.container else "")
    for place, path in (("run_dir", run_dir), ("the current folder", Path.cwd())):
        if any(letter in str(path) for letter in refused):
            raise UserError(f"{place} is {str(path)!r}, whose name has a line break, or a colon or comma before a container: use another")


def script_of(planned: Plan) -> str:
    """The batch script that a launch would be submitted with; writes nothing."""
    return render(planned.spec(next_folder(planned.run.run_dir.resolve() / LAUNCHES)))


def launch(planned: Plan) -> tuple[Path, str]:
    """Writes the launch's folder and submits its job; returns both. Raises UserError, and leaves nothing, where the job is not taken.

    Where it is not known whether it was, sbatch did not answer or this was interrupted, the folder stays: the job may be in the queue, and
    is found there by its script.
    """
    with locked(planned.run.run_dir.resolve()) as launches:
        refuse_where_used(launches)
        folder = new_folder(launches)
        try:
            launched = _written(planned, folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        try:
            return folder, submit(folder, launched)
        except queue.RefusedError:
            shutil.rmtree(folder)
            raise


def _written(planned: Plan, folder: Path) -> Launch:
    state = git_state()
    take_snapshot(folder, state)
    write_resolved(planned.run, folder)
    write_origin(folder, planned.origin())
    (folder / SCRIPT).write_text(render(planned.spec(folder)), encoding="utf-8")
    shape = planned.shape
    launched = Launch(
        command=planned.request.command(),
        commit=state.commit,
        changed=bool(state.diff),
        nodes=shape.nodes,
        tasks_per_node=shape.tasks_per_node,
    )
    write_launch(folder, launched)
    return launched


def submit(folder: Path, launched: Launch) -> str:
    """Hands a launch's script over, and writes its job down. Raises UserError."""
    at = int(time.time())
    job = queue.submit(folder / SCRIPT)
    write_launch(folder, launched.model_copy(update={"jobs": (*launched.jobs, job)}))
    append_event(folder, Event(at=at, job=int(job), restarts=0, event="submit"))
    return job


def resume(run_dir: Path) -> tuple[Path, str]:
    """Submits the newest launch's script again, as it is; returns its folder and the new job. Raises UserError."""
    with locked(run_dir.resolve()) as launches:
        refuse_where_used(launches)
        folders = launch_folders(run_dir.resolve())
        if not folders:
            raise UserError(f"{run_dir} was not launched: use `mplug2 launch CONFIG --cluster NAME`")
        return folders[-1], submit(folders[-1], read_launch(folders[-1]))


def refuse_where_used(launches: Path) -> None:
    """Raises UserError where a job of the run waits or runs: known by its script, so even where its number was lost."""
    for job in queue.queued():
        if job.script.is_relative_to(launches):
            run_dir = launches.parent
            raise UserError(f"job {job.job} ({job.state}) is using {run_dir}: wait for it, or `mplug2 jobs cancel {run_dir}`")
