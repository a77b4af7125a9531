"""A study on SLURM: every step that is neither finished nor queued becomes a job that starts when the steps before it have ended well."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from launchers.cluster import SlurmConfig
from launchers.launchable import Launchable, Prior
from launchers.launching import launch, refuse_where_used, script_of
from launchers.study import Step
from launchers.study_state import Progress, StepState
from launchers.tool_job import plan_command
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCHES

DONE_OR_COMING = (Progress.FINISHED, Progress.QUEUED)


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """What steps run on."""

    ranks: SlurmConfig
    tools: SlurmConfig
    """Steps that are one process, or an array of them."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    step: Step
    planned: Launchable
    waits_for: tuple[str, ...]
    """Steps before it that are not finished."""


def plan_study(found: Mapping[str, StepState], profiles: Profiles) -> list[Submission]:
    """What is to be submitted, in this order. `found`: of `launchers.study_state.states`.

    Raises UserError where a step does not fit the cluster, or waits in the queue for what will never come.
    """
    for state in found.values():
        before = [found[name] for name in state.step.after]
        if state.progress is Progress.QUEUED and not (state.current and all(each.progress in DONE_OR_COMING for each in before)):
            raise UserError(
                f"step {state.step.name} ({state.detail}) was queued for another command, or after a step that has ended otherwise: "
                f"`mplug2 jobs cancel {shlex.quote(str(state.step.home))}`, then run the study again"
            )
    return [_planned(state.step, found, profiles) for state in found.values() if state.progress not in DONE_OR_COMING]


def _planned(step: Step, found: Mapping[str, StepState], profiles: Profiles) -> Submission:
    try:
        planned = plan_command(step.command, profiles.ranks, array=step.array, home=step.home)
        if planned.run_dir is None:
            planned = plan_command(step.command, profiles.tools, array=step.array, home=step.home)
    except UserError as error:
        raise UserError(f"step {step.name}: {error}") from None
    waits_for = tuple(name for name in step.after if found[name].progress is not Progress.FINISHED)
    return Submission(step=step, planned=planned, waits_for=waits_for)


def submit(found: Mapping[str, StepState], submissions: list[Submission], tell: Callable[[str], None]) -> None:
    """Raises UserError where a run is used by a job of its own, before anything is submitted; or where SLURM refuses a job: those of the
    steps before stay, and the next `mplug2 study run` goes on behind them."""
    for each in submissions:
        if each.planned.run_dir is not None:
            refuse_where_used(each.planned.run_dir / LAUNCHES, apart_from=each.step.home.parent)
    priors = {name: Prior(name=state.launch, job=state.job.job if state.job else None) for name, state in found.items()}
    for each in submissions:
        step = each.step
        after = [priors[name] for name in step.after]
        try:
            folder, job = launch(each.planned, after)
        except UserError as error:
            raise UserError(f"step {step.name}: {error}") from None
        priors[step.name] = Prior(name=f"{step.name}/{folder.name}", job=job)
        waits = [prior.job for prior in after if prior.job]
        tell(f"{step.name}: job {job}" + (f" after {', '.join(waits)}" if waits else ""))


def scripts(submissions: list[Submission]) -> Iterator[str]:
    """What would be submitted, each script under a line that says how."""
    for each in submissions:
        waits = f", after the jobs of {', '.join(each.waits_for)}" if each.waits_for else ""
        yield f"# step {each.step.name}{waits}\n{script_of(each.planned)}"
