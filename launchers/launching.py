"""From a config and a cluster to a job: its shape, its folder, its submission."""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from launchers import health, queue
from launchers.batch_script import JobSpec, render
from launchers.cluster import Launcher, SlurmConfig
from launchers.command_line import Command
from launchers.launch_folder import SCRIPT, Launch, launch_folders, locked, new_folder, next_folder, read_launch, unwritten, write_launch
from launchers.launchable import Launchable, Prior, Shape
from launchers.layout_rules import layout_overrides
from launchers.origin import Origin, write_origin
from launchers.snapshot import git_state, take_snapshot
from launchers.torchrun import CLI, agent_command
from megatron_mplug2.config.load import RESOLVED_NAME, load_config, write_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCHES, SUBMITTED, Event, append_event

_IN_CONTAINERS = "python3"


class Work(StrEnum):
    """Commands that run on every rank."""

    PRETRAIN = "pretrain"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for."""

    work: Work
    config: Path
    overrides: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Of the command itself, such as `--answers FILE`."""
    nodes: int | None = None
    """None: as many as the layout needs."""

    def command(self) -> tuple[str, ...]:
        """After `mplug2`."""
        return (self.work, str(self.config), *self.overrides, *self.options)


def request_of(command: Command, nodes: int | None) -> Request:
    """Of one of the commands in `Work`."""
    config, overrides = command.values["config"], command.values["overrides"]
    answers = command.values.get("answers")
    options = () if answers is None else (f"--answers={answers}",)
    return Request(work=Work(command.name[0]), config=Path(config), overrides=tuple(overrides or ()), options=options, nodes=nodes)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The launch of a command that runs on ranks."""

    request: Request
    run: RunConfig
    shape: Shape
    slurm: SlurmConfig
    home: Path
    command: tuple[str, ...]
    array: None = None

    @property
    def run_dir(self) -> Path:
        return self.run.run_dir.resolve()

    def write_inputs(self, folder: Path) -> None:
        write_resolved(self.run, folder)
        slurm = self.slurm.model_copy(update={"python": python(self.slurm)})
        write_origin(folder, Origin(slurm=slurm, work_dir=Path.cwd(), options=self.request.options))

    def spec(self, folder: Path) -> JobSpec:
        torchrun = self.slurm.launcher is Launcher.TORCHRUN
        command = (self.request.work, str(folder / RESOLVED_NAME), *self.request.options)
        ranks = self.shape.tasks_per_node
        return JobSpec(
            name=self.run.name,
            command=agent_command(python(self.slurm), command, self.shape.nodes, ranks) if torchrun else (*mplug2(self.slurm), *command),
            python=python(self.slurm),
            folder=folder,
            work_dir=Path.cwd(),
            run_dir=self.run_dir,
            nodes=self.shape.nodes,
            tasks_per_node=1 if torchrun else ranks,
            ranks_per_task=ranks if torchrun else 1,
            slurm=self.slurm,
            check=health.command(python(self.slurm), folder, self.slurm),
        )


def python(slurm: SlurmConfig) -> str:
    """On the nodes."""
    return slurm.python or (_IN_CONTAINERS if slurm.container else sys.executable)


def mplug2(slurm: SlurmConfig) -> tuple[str, ...]:
    """What `mplug2` is on the nodes."""
    return (python(slurm), "-m", CLI)


def plan(request: Request, slurm: SlurmConfig, home: Path | None = None) -> Plan:
    """Checks the config and fits it to the cluster; the run's own folder is its home, if no other is given. Raises UserError."""
    run = load_config(request.config, request.overrides)
    _check_work(request, run)
    if request.nodes is not None:
        check_nodes(request.nodes, slurm)
        changes = layout_overrides(run, request.nodes * slurm.tasks_per_node)
        run = load_config(request.config, [*request.overrides, *changes])
    shape = _shape(run.layout.world_size, slurm)
    check_path("run_dir", run.run_dir.resolve(), slurm)
    return Plan(request=request, run=run, shape=shape, slurm=slurm, home=home or run.run_dir.resolve(), command=request.command())


def _check_work(request: Request, run: RunConfig) -> None:
    """Before a job waits for hours to say the same."""
    if request.work is Work.PRETRAIN and run.downstream is not None:
        raise UserError(f"{request.config}: downstream.family={run.downstream.family} is finetuned: launch `finetune {request.config}`")
    if request.work is Work.FINETUNE and run.downstream is None:
        raise UserError(f"{request.config}: downstream.family is missing, which `finetune` needs: set it, or launch `pretrain`")


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


def check_path(what: str, folder: Path, slurm: SlurmConfig) -> None:
    """Raises UserError for what neither sbatch nor a container's mounts can quote, in the name of this folder or the current one."""
    refused = "\n\r\0" + (":," if slurm.container else "")
    for place, path in ((what, folder), ("the current folder", Path.cwd())):
        if any(letter in str(path) for letter in refused):
            raise UserError(f"{place} is {str(path)!r}, whose name has a line break, or a colon or comma before a container: use another")


def script_of(planned: Launchable) -> str:
    """The batch script that a launch would be submitted with; writes nothing."""
    return render(planned.spec(next_folder(planned.home / LAUNCHES)))


def launch(planned: Launchable, after: Sequence[Prior] = ()) -> tuple[Path, str]:
    """Writes the launch's folder and submits its job; returns both. Raises UserError, and leaves nothing, where the job is not taken.

    Where it is not known whether it was, sbatch did not answer or this was interrupted, the folder stays: the job may be in the queue, and
    is found there by its script.
    """
    with locked(planned.home) as launches:
        refuse_where_used(launches)
        folder = new_folder(launches)
        try:
            launched = _written(planned, folder, after)
        except OSError as error:
            shutil.rmtree(folder)
            raise unwritten(folder, error) from None
        except BaseException:
            shutil.rmtree(folder)
            raise
        try:
            return folder, submit(folder, launched, [prior.job for prior in after if prior.job is not None])
        except queue.RefusedError:
            shutil.rmtree(folder)
            raise


def _written(planned: Launchable, folder: Path, after: Sequence[Prior]) -> Launch:
    state = git_state()
    take_snapshot(folder, state)
    planned.write_inputs(folder)
    (folder / SCRIPT).write_text(render(planned.spec(folder)), encoding="utf-8")
    shape = planned.shape
    launched = Launch(
        command=planned.command,
        commit=state.commit,
        changed=bool(state.diff),
        nodes=shape.nodes,
        tasks_per_node=shape.tasks_per_node,
        parts=planned.array.parts if planned.array else None,
        after=tuple(prior.name for prior in after),
        run_dir=planned.run_dir,
    )
    write_launch(folder, launched)
    return launched


def submit(folder: Path, launched: Launch, after: Sequence[str] = ()) -> str:
    """Hands a launch's script over, and writes its job down. Raises UserError; RefusedError where there is no job."""
    at = int(time.time())
    job = queue.submit(folder / SCRIPT, after)
    try:
        write_launch(folder, launched.model_copy(update={"jobs": (*launched.jobs, job)}))
        append_event(folder, Event(at=at, job=int(job), restarts=0, event=SUBMITTED))
    except OSError as error:
        raise UserError(
            f"job {job} is submitted, and {folder} cannot take it down ({error.strerror}): make room there, or scancel {job}"
        ) from None
    return job


def resume(run_dir: Path) -> tuple[Path, str]:
    """Submits the newest launch's script again, as it is; returns its folder and the new job. Raises UserError."""
    with locked(run_dir.resolve()) as launches:
        refuse_where_used(launches)
        folders = launch_folders(run_dir.resolve())
        if not folders:
            raise UserError(f"{run_dir} was not launched: use `mplug2 launch CONFIG --cluster NAME`")
        launched = read_launch(folders[-1])
        if launched.run_dir is not None:
            refuse_where_used(launched.run_dir / LAUNCHES)
        return folders[-1], submit(folders[-1], launched)


def refuse_where_used(launches: Path, apart_from: Path | None = None) -> None:
    """Raises UserError where a job of the run waits or runs, other than those launched from below `apart_from`.

    It is known by its script, so even where its number was lost; one that a study has launched, by what its launch says.
    """
    for job in queue.queued():
        ours = apart_from is not None and job.script.is_relative_to(apart_from)
        if not ours and (job.script.is_relative_to(launches) or _run_of(job) == launches.parent):
            home = job.script.parents[2]
            raise UserError(
                f"job {job.job} ({job.state}) is using {launches.parent}: wait for it, or `mplug2 jobs cancel {shlex.quote(str(home))}`"
            )


def _run_of(job: queue.QueuedJob) -> Path | None:
    """None where that is not known: it is no launch, or one of a tool."""
    with suppress(UserError):
        if job.script.name == SCRIPT:
            return read_launch(job.script.parent).run_dir
    return None
