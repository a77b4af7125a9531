"""`mplug2 launch` and `mplug2 jobs`: runs on a cluster. Neither imports torch, except to count this machine's GPUs."""

import os
import shlex
import sys
from collections import deque
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import UserError

if TYPE_CHECKING:
    from launchers.cluster import LocalConfig
    from launchers.command_line import Command
    from launchers.jobs import JobStatus
    from launchers.launchable import Launchable

app = typer.Typer(no_args_is_help=True, help="Look after the jobs that `mplug2 launch` submitted.")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder")]


Profile = Annotated[str, typer.Option("--cluster", metavar="NAME", help="A profile of configs/cluster, or a file.yaml like those")]


def launch(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG|COMMAND ...", help="Config to pretrain, with KEY=VALUE to set; or any command, options after --"),
    ],
    cluster: Profile,
    nodes: Annotated[int | None, typer.Option(min=1, help="Set layout.data so that so many nodes are full", show_default=False)] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, help="Share a data stage out to so many tasks of an array", show_default=False)
    ] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Most of these that run at the same time", show_default=False)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="NODE", help="A node that is not to be used; repeatable")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch script, and do nothing")] = False,
) -> None:
    """Run a command on a cluster: submit it to SLURM with a copy of code and config, or run it here, as the profile says.

    On SLURM it is requeued until it is finished, after time limits, preemptions and faults, but not after a mistake in config or data.

    mplug2 launch CONFIG KEY=VALUE --cluster NAME; mplug2 launch evaluate CONFIG --cluster NAME;
    mplug2 launch --cluster NAME --parts 8 -- data shard listing DIR --out DIR
    """
    from launchers.array import Array
    from launchers.cluster import load_cluster, without_nodes
    from launchers.command_line import commands_beside, read_command
    from launchers.tool_job import plan_command

    if parts is None and at_once is not None:
        raise UserError(f"--at-once {at_once}: bounds an array: give --parts too")
    commands = commands_beside(context)
    command = read_command(commands, words if words[0] in commands.commands else ["pretrain", *_config_first(words, commands.commands)])
    array = None if parts is None else Array(parts=parts, at_once=at_once)
    profile = load_cluster(cluster)
    if profile.slurm is not None:
        slurm = without_nodes(profile.slurm, exclude or ())
        _launch_on_slurm(plan_command(command, slurm, nodes=nodes, array=array), dry_run)
    elif profile.local is not None:
        if nodes not in (None, 1):
            raise UserError(f"--nodes {nodes}: this machine is one node; name a cluster of SLURM")
        if exclude:
            raise UserError(f"--exclude {exclude[0]}: this machine is all that there is; name a cluster of SLURM")
        _run_here(command, profile.local, dry_run)


def _config_first(words: list[str], commands: Collection[str]) -> list[str]:
    """Raises UserError where the first word is neither a file nor looks like one."""
    if words[0].endswith((".yaml", ".yml")) or Path(words[0]).exists():
        return words
    near = get_close_matches(words[0], commands, n=1)
    raise UserError(
        f"launch {words[0]}: neither a config, such as run.yaml, nor a command" + (f"; did you mean {near[0]}?" if near else "")
    )


def _launch_on_slurm(planned: "Launchable", dry_run: bool) -> None:
    from launchers import launching

    if dry_run:
        typer.echo(launching.script_of(planned), nl=False)
        return
    folder, job = launching.launch(planned)
    shape = f"{planned.shape.nodes} x {planned.shape.tasks_per_node} ranks" if planned.array is None else f"{planned.array.parts} parts"
    typer.echo(f"job {job}: {shape}, {folder}; next: mplug2 jobs status {shlex.quote(str(planned.home))}")


def _run_here(command: "Command", local: "LocalConfig", dry_run: bool) -> None:
    """Becomes the command itself, whole: its own processes share it out."""
    words = [sys.executable, "-m", "megatron_mplug2.cli", *command.words]
    if dry_run:
        typer.echo(shlex.join(words))
        return
    os.execve(sys.executable, words, this_machine(local))


def this_machine(local: "LocalConfig") -> dict[str, str]:
    """The environment of commands that run here. Raises UserError where there are fewer GPUs than the profile asks for."""
    environ = dict(os.environ)
    if local.gpus == 0:
        environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        _check_gpus(local.gpus)
    return environ


def _check_gpus(asked: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if found < asked:
        raise UserError(f"this machine has {found} GPUs, the cluster's profile asks for {asked}: use --cluster local_cpu")


@app.command("list")
def show(place: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or one of runs")] = Path("runs")) -> None:
    """List runs that were launched, each with its newest job."""
    from launchers.jobs import jobs_of, newest_launch, runs_below, status_of

    folders = runs_below(place)
    queued = jobs_of([newest_launch(folder) for folder in folders])
    for folder in folders:
        found = status_of(folder, queued)
        typer.echo(f"{folder}  job {found.job or '-'}  {found.state}  {found.where or '-'}  step {found.steps}")


@app.command()
def status(run: RunFolder) -> None:
    """Show a run's newest job: its state, where it runs, every start and end, and what the run's record says."""
    for line in _lines(_status(run)):
        typer.echo(line)


def _status(run: Path) -> "JobStatus":
    from launchers.jobs import jobs_of, newest_launch, status_of

    return status_of(run, jobs_of([newest_launch(run)]))


def _lines(found: "JobStatus") -> list[str]:
    from launchers.jobs import silence, told, waits_in_vain

    launched, doubts = found.launch, [line for line in (silence(found), waits_in_vain(found)) if line]
    code = f"commit {launched.commit}{' with changes' if launched.changed else ''}" if launched.commit else "no commit"
    return [
        f"job: {found.job or '-'}  {found.state}  {found.where or '-'}",
        f"launch: {found.folder} ({launched.nodes} x {launched.tasks_per_node} ranks, {code})",
        f"command: mplug2 {shlex.join(launched.command)}",
        f"step: {found.steps}",
        *told(found.events),
        *doubts,
        *([found.summary] if found.summary else []),
    ]


@app.command()
def logs(
    run: RunFolder,
    rank: Annotated[str, typer.Option(help="Rank, or `batch` for the job's script; of an array a part, or its `3_batch`")] = "0",
    lines: Annotated[int, typer.Option(min=1, help="How many of the last ones")] = 40,
) -> None:
    """Show the last lines of what a rank of the newest job printed, over all its starts."""
    from launchers.jobs import log_path

    path = log_path(run, rank)
    typer.echo(f"{path}:", err=True)
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(line, nl=False)


@app.command()
def cancel(run: RunFolder) -> None:
    """Cancel a run's job for good; its ranks save if SLURM's KillWait leaves them the time."""
    from launchers import queue

    found = _status(run)
    if not found.queued or found.job is None:
        raise UserError(f"{run} has no job that waits or runs (the last one: {found.job or 'none'}, {found.state})")
    queue.cancel(found.job)
    typer.echo(f"job {found.job} is cancelled; `mplug2 jobs resume {shlex.quote(str(run))}` goes on from what was saved, if anything")


@app.command()
def resume(
    run: RunFolder,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="On so many nodes: layout.data follows, the global batch stays", show_default=False)
    ] = None,
) -> None:
    """Submit a run's newest launch again, with the code and config that it was launched with."""
    from launchers import launching, relaunching
    from launchers.launch_folder import finished

    found = _status(run)
    if finished(found.folder, found.launch):
        raise UserError(f"{run} is finished after step {found.steps}: nothing is left to do")
    if nodes is None:
        folder, job = launching.resume(run)
        typer.echo(f"job {job}: {folder} again")
    else:
        again = relaunching.relaunch(run, nodes)
        typer.echo(f"job {again.job}: {again.folder} on {nodes} node{'s' if nodes > 1 else ''}, {' '.join(again.changes)}")


@app.command()
def summary(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or one of runs")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print seconds by what they went into, as JSON")] = False,
) -> None:
    """Show every start of a run, and where its time went; with or without SLURM."""
    import json

    from launchers.summaries import lines_of, summaries

    found = summaries(place)
    if as_json:
        typer.echo(json.dumps([each.record() for each in found], indent=1))
        return
    for each in found:
        for line in lines_of(each):
            typer.echo(line)
