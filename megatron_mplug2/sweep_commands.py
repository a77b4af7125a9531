"""`mplug2 sweep`: a product of layouts, measured by a short training each."""

import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import ExitCode
from megatron_mplug2.launch_commands import Profile, this_machine

if TYPE_CHECKING:
    from launchers.cluster import LocalConfig, SlurmConfig
    from launchers.sweep.points import Point, Sweep
    from launchers.sweep.state import SweepState
    from megatron_mplug2.config.schema import RunConfig

app = typer.Typer(no_args_is_help=True, help="Measure layouts of nodes, tensor, pipeline and data parallelism by short trainings.")

SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file, such as configs/sweep/demo_strong.yaml")]


@app.command()
def run(
    file: SweepFile,
    cluster: Profile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted or run, and do nothing")] = False,
) -> None:
    """Run the points that are missing or failed: as job arrays of SLURM, or one after the other here, as the profile says.

    A point that dies is written down with its reason, and the others go on. Run it again after a failure, a kill, or a change of the file.
    """
    from launchers.cluster import load_cluster
    from launchers.study_lock import study_lock
    from launchers.sweep.points import load_sweep
    from launchers.sweep.state import Progress

    sweep, profile = load_sweep(file), load_cluster(cluster)
    if dry_run:
        points = [each.point for each in _looked_at(sweep).of(Progress.TO_DO, Progress.FAILED)]
        _show(sweep, file, points, profile.slurm)
        return
    with study_lock(sweep.folder, "sweep") as lock:
        state = _looked_at(sweep)
        points = [each.point for each in state.of(Progress.TO_DO, Progress.FAILED)]
        _tell_open(sweep, state, len(points))
        if not points:
            return
        if profile.slurm is not None:
            _submit(sweep, file, points, profile.slurm)
        elif profile.local is not None:
            _run_here(sweep, points, profile.local, lock)


@app.command()
def status(file: SweepFile) -> None:
    """Show each point: measured, failed and why, queued, or to do; and layouts that cannot be run."""
    from launchers.sweep.points import load_sweep

    sweep = load_sweep(file)
    state = _looked_at(sweep)
    rows = [(each.point.layout.name, each.progress.value, each.detail) for each in state.points]
    rows += [(skipped.name, "skipped", skipped.reason) for skipped in sweep.skipped]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, progress, detail in rows:
        typer.echo(f"{name:{widths[0]}}  {progress:{widths[1]}}  {detail}".rstrip())


@app.command()
def report(
    file: SweepFile,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder; by default `report` in the sweep's", show_default=False)] = None,
) -> None:
    """Print the table of measured points, and write plots and one page, also while the sweep goes on."""
    from launchers.sweep.page import summary, write_report
    from launchers.sweep.points import load_sweep
    from launchers.sweep.scaling import HEAD, cells, columns, figures

    sweep = load_sweep(file)
    state = _looked_at(sweep)
    written = write_report(sweep, state, out or sweep.folder / "report")
    typer.echo(summary(sweep, state))
    for line in columns([HEAD, *(cells(figure) for figure in figures(state.points))]):
        typer.echo(line)
    typer.echo(f"wrote {written[0]} and {len(written) - 1} plots beside it")


@app.command(hidden=True)
def point(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A point's config, or a folder with one for each task of a job array")],
) -> None:
    """Train a point, each rank of which writes down what it runs on. It is what `sweep run` starts."""
    from launchers.stop_signal import hold_back

    hold_back()  # before the imports, which take seconds
    from launchers.array import TASK
    from launchers.gpu_memory import check_gpu_memory
    from launchers.local import launch
    from megatron_mplug2.config.load import RESOLVED_NAME, load_config

    run = load_config(config / os.environ.get(TASK, "") / RESOLVED_NAME if config.is_dir() else config)
    check_gpu_memory(run)
    raise typer.Exit(launch(run, _train))


def _train(run: "RunConfig") -> ExitCode:
    """On every rank."""
    import torch
    import torch.distributed as dist

    from launchers.sweep.hosts import Watch, write_host
    from megatron_mplug2.parallel.device import on_gpu
    from megatron_mplug2.training.loop import pretrain

    watch = Watch()
    end = pretrain(run)
    write_host(run.run_dir, dist.get_rank(), watch.host(run.training.threads, torch.cuda.get_device_name() if on_gpu() else None))
    return end


def _looked_at(sweep: "Sweep") -> "SweepState":
    """With a line about what could not be read."""
    from launchers import queue
    from launchers.sweep.state import look

    state = look(sweep, queue.queued)
    for doubt in state.doubts:
        typer.echo(f"warning: {doubt}", err=True)
    return state


def _tell_open(sweep: "Sweep", state: "SweepState", points: int) -> None:
    from launchers.sweep.state import Progress

    for skipped in sweep.skipped:
        typer.echo(f"{skipped.name}: skipped, {skipped.reason}", err=True)
    measured, queued = len(state.of(Progress.MEASURED)), len(state.of(Progress.QUEUED))
    typer.echo(f"{len(state.points)} points: {measured} measured before, {queued} queued, {points} to run", err=True)


def _show(sweep: "Sweep", file: Path, points: "list[Point]", slurm: "SlurmConfig | None") -> None:
    from launchers.sweep import arrays

    for skipped in sweep.skipped:
        typer.echo(f"# {skipped.name}: skipped, {skipped.reason}")
    if slurm is not None and points:
        for script in arrays.scripts(arrays.plan_arrays(sweep, file, points, slurm)):
            typer.echo(script)
        return
    for each in points:
        typer.echo(each.layout.name)


def _submit(sweep: "Sweep", file: Path, points: "list[Point]", slurm: "SlurmConfig") -> None:
    from launchers import queue
    from launchers.sweep import arrays

    queue.queued()  # tells, before anything is written, that there is no SLURM here
    arrays.submit_arrays(arrays.plan_arrays(sweep, file, points, slurm), typer.echo)
    typer.echo(f"next: mplug2 sweep status {shlex.quote(str(file))}")


def _run_here(sweep: "Sweep", points: "list[Point]", local: "LocalConfig", lock: int) -> None:
    from launchers.sweep.here import check_nodes, run_here
    from megatron_mplug2.data.streams import look_at_data

    check_nodes(points)
    look_at_data(points[0].run)  # what would be the same mistake in every point
    code = run_here(sweep, points, this_machine(local), lock, partial(typer.echo, err=True))
    raise typer.Exit(code)
