"""`mplug2 study`: a whole study, from raw corpora to an export, by one file."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import UserError
from megatron_mplug2.launch_commands import Profile, this_machine

if TYPE_CHECKING:
    from launchers.cluster import LocalConfig
    from launchers.queue import QueuedJob
    from launchers.study import Study
    from launchers.study_slurm import Profiles

app = typer.Typer(no_args_is_help=True, help="Run a whole study: a file of steps, each a command, and what each comes after.")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file, such as configs/study/demo.yaml")]


@app.command()
def run(
    context: typer.Context,
    file: StudyFile,
    cluster: Profile,
    cpu_cluster: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another profile for steps without ranks, such as data stages", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted or run, and do nothing")] = False,
) -> None:
    """Run the steps that are not finished: as dependent jobs of SLURM, or one after the other here, as the profile says.

    Run it again after a failure, or a change of the file: finished steps are skipped, queued ones left alone, the others submitted. A step
    that is done again goes by its command's own rules: a stage fills no folder that was begun with something else, a run goes on.
    """
    from launchers.cluster import load_cluster

    study = _load(context, file)
    profile, other = load_cluster(cluster), load_cluster(cpu_cluster or cluster)
    if profile.slurm is not None and other.slurm is not None:
        from launchers.study_slurm import Profiles

        _submit(study, file, Profiles(ranks=profile.slurm, tools=other.slurm), dry_run)
    elif profile.local is not None and cpu_cluster is None:
        _run_here(study, profile.local, dry_run)
    else:
        raise UserError(f"--cpu-cluster {cpu_cluster}: a study is run on SLURM or here, not on both")


@app.command()
def status(context: typer.Context, file: StudyFile) -> None:
    """Show each step: finished, queued, not finished and why, or to do."""
    from launchers.study_state import states

    study = _load(context, file)
    found = states(study, _queued(study))
    width = max(map(len, found))
    for name, state in found.items():
        typer.echo(f"{name:{width}}  {state.progress:16}  {state.launch or '-':{width + 5}}  {state.detail}".rstrip())


def _load(context: typer.Context, file: Path) -> "Study":
    from launchers.command_line import commands_beside, read_command
    from launchers.study import load_study

    return load_study(file, partial(read_command, commands_beside(context)))


def _queued(study: "Study") -> "list[QueuedJob]":
    """SLURM is asked only for a study that was launched there: where it was not, there may be none."""
    from launchers import queue
    from launchers.study_state import on_slurm

    return queue.queued() if on_slurm(study) else []


def _submit(study: "Study", file: Path, profiles: "Profiles", dry_run: bool) -> None:
    from launchers import queue, study_slurm
    from launchers.study_lock import study_lock
    from launchers.study_state import Progress, states

    if dry_run:
        for script in study_slurm.scripts(study_slurm.plan_study(states(study, _queued(study)), profiles)):
            typer.echo(script)
        return
    queue.queued()  # tells, before anything is written, that there is no SLURM here
    with study_lock(study.folder):
        found = states(study, queue.queued())
        for name, state in found.items():
            if state.progress in study_slurm.DONE_OR_COMING:
                typer.echo(f"{name}: {state.progress}" + (f", {state.detail}" if state.progress is Progress.QUEUED else ""))
        study_slurm.submit(found, study_slurm.plan_study(found, profiles), typer.echo)
    typer.echo(f"next: mplug2 study status {shlex.quote(str(file))}")


def _run_here(study: "Study", local: "LocalConfig", dry_run: bool) -> None:
    from launchers.study_here import run_study
    from launchers.study_lock import study_lock
    from launchers.study_state import Progress, states

    jobs = _queued(study)
    if dry_run:
        for state in states(study, jobs).values():
            typer.echo(f"{state.step.command}" if state.progress is not Progress.FINISHED else f"# {state.step.name}: finished before")
        return
    environ = this_machine(local)
    with study_lock(study.folder) as lock:
        code = run_study(study, jobs, environ, lock, partial(typer.echo, err=True))
    raise typer.Exit(code)
