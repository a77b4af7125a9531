"""`mplug2 launch` and `mplug2 jobs`: runs on a cluster. Neither imports torch, except to count this machine's GPUs."""

import os
import shlex
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launchers.launching import Work
from megatron_mplug2.errors import ExitCode, UserError

if TYPE_CHECKING:
    from launchers.cluster import LocalConfig, SlurmConfig
    from launchers.jobs import JobStatus
    from launchers.launching import Request

app = typer.Typer(no_args_is_help=True, help="Look after the jobs that `mplug2 launch` submitted.")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder")]


def launch(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, such as configs/pretrain/base.yaml")],
    cluster: Annotated[str, typer.Option(metavar="NAME", help="A profile of configs/cluster, or a file.yaml like those")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config keys to set")] = None,
    work: Annotated[Work, typer.Option(help="The command that all ranks run")] = Work.PRETRAIN,
    nodes: Annotated[int | None, typer.Option(min=1, help="Set layout.data so that so many nodes are full", show_default=False)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="NODE", help="A node that is not to be used; repeatable")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch script, and do nothing")] = False,
) -> None:
    """Run a command on a cluster: submit it to SLURM with a copy of code and config, or run it here, as the profile says.

    On SLURM it is requeued until it is finished, after time limits, preemptions and faults, but not after a mistake in config or data.
    """
    from launchers.cluster import load_cluster
    from launchers.launching import Request

    profile = load_cluster(cluster)
    request = Request(work=work, config=config, overrides=tuple(overrides or ()), nodes=nodes)
    if profile.slurm is not None:
        excluded = (*profile.slurm.exclude, *(exclude or ()))
        _launch_on_slurm(request, profile.slurm.model_copy(update={"exclude": excluded}), dry_run)
    elif profile.local is not None:
        _run_here(request, profile.local, dry_run)


def _launch_on_slurm(request: "Request", slurm: "SlurmConfig", dry_run: bool) -> None:
    from launchers import launching

    planned = launching.plan(request, slurm)
    if dry_run:
        typer.echo(launching.script_of(planned), nl=False)
        return
    folder, job = launching.launch(planned)
    shape = planned.shape
    run_dir = shlex.quote(str(planned.run.run_dir))
    typer.echo(f"job {job}: {shape.nodes} x {shape.tasks_per_node} ranks, {folder}; next: mplug2 jobs status {run_dir}")


def _run_here(request: "Request", local: "LocalConfig", dry_run: bool) -> None:
    """Becomes the command itself."""
    if request.nodes not in (None, 1):
        raise UserError(f"--nodes {request.nodes}: this machine is one node; name a cluster of SLURM")
    command = [sys.executable, "-m", "megatron_mplug2.cli", *request.command()]
    environ = dict(os.environ)
    if local.gpus == 0:
        environ["CUDA_VISIBLE_DEVICES"] = ""
    if dry_run:
        typer.echo(shlex.join(command))
        return
    if local.gpus:
        _check_gpus(local.gpus)
    os.execve(sys.executable, command, environ)


def _check_gpus(asked: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if found < asked:
        raise UserError(f"this machine has {found} GPUs, the cluster's profile asks for {asked}: use --cluster local_cpu")


@app.command("list")
def show(place: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or one of runs")] = Path("runs")) -> None:
    """List runs that were launched, each with its newest job."""
    from launchers import queue
    from launchers.jobs import runs_below, status_of

    folders = runs_below(place)
    if not folders:
        raise UserError(f"no launched runs in {place}: name the folder of a run, or of runs")
    queued = queue.queued()
    for folder in folders:
        found = status_of(folder, queued)
        typer.echo(f"{folder}  job {found.job or '-'}  {found.state}  {found.where or '-'}  step {found.steps}")


@app.command()
def status(run: RunFolder) -> None:
    """Show a run's newest job: its state, where it runs, every start and end, and what the run's record says."""
    for line in _lines(_status(run)):
        typer.echo(line)


def _status(run: Path) -> "JobStatus":
    from launchers import queue
    from launchers.jobs import status_of

    return status_of(run, queue.queued())


def _lines(found: "JobStatus") -> list[str]:
    from launchers.jobs import described, silence

    launched, silent = found.launch, silence(found)
    code = f"commit {launched.commit}{' with changes' if launched.changed else ''}" if launched.commit else "no commit"
    return [
        f"job: {found.job or '-'}  {found.state}  {found.where or '-'}",
        f"launch: {found.folder} ({launched.nodes} x {launched.tasks_per_node} ranks, {code})",
        f"command: mplug2 {shlex.join(launched.command)}",
        f"step: {found.steps}",
        *(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event.at))}  {described(event)}" for event in found.events),
        *([silent] if silent else []),
        *([found.summary] if found.summary else []),
    ]


@app.command()
def logs(
    run: RunFolder,
    rank: Annotated[str, typer.Option(help="Rank, or `batch` for the job's script")] = "0",
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
    typer.echo(f"job {found.job} is cancelled; `mplug2 jobs resume {run}` goes on from the last checkpoint")


@app.command()
def resume(
    run: RunFolder,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="On so many nodes: layout.data follows, the global batch stays", show_default=False)
    ] = None,
) -> None:
    """Submit a run's newest launch again, with the code and config that it was launched with."""
    from launchers import launching, relaunching

    found = _status(run)
    if found.events and found.events[-1].code == ExitCode.FINISHED:
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
