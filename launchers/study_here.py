"""A study on this machine: its steps one after the other, each in a process of its own that a person could have started."""

import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from launchers.child import run_child
from launchers.launch_folder import Launch, locked, new_folder, write_launch
from launchers.queue import QueuedJob
from launchers.snapshot import git_state
from launchers.study import Step, Study
from launchers.study_state import Progress, StepState, states
from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.observability.job_events import NO_JOB, Event, append_event


def run_study(study: Study, jobs: Sequence[QueuedJob], environ: Mapping[str, str], lock: int, tell: Callable[[str], None]) -> int:
    """Runs the steps that are not finished; returns 0, or the exit code of the first one that ended otherwise, after which none begins.

    SIGTERM and the cluster's signal are passed on to the step that runs, as a terminal passes a Ctrl-C: where it saves and ends, the study
    ends too. `lock` is a file descriptor that lives as long as the steps' processes. Raises UserError where a step is in SLURM's queue.
    """
    for name in [step.name for step in study.steps]:
        found = states(study, jobs)
        state = found[name]
        if state.progress is Progress.QUEUED:
            raise UserError(f"step {name}: {state.detail}: wait for it, or `mplug2 jobs cancel {shlex.quote(str(state.step.home))}`")
        if state.progress is Progress.FINISHED:
            tell(f"{name}: finished before")
            continue
        tell(f"{name}: {state.step.command}")
        if code := _run(state.step, [found[before] for before in state.step.after], environ, lock):
            tell(f"{name}: ended with {code}; the same command begins here again, and the steps before it stay as they are")
            return code
    return ExitCode.FINISHED


def _run(step: Step, before: Sequence[StepState], environ: Mapping[str, str], lock: int) -> int:
    with locked(step.home) as launches:
        folder, git = new_folder(launches), git_state()
        after = tuple(state.launch for state in before)
        launched = Launch(command=step.command.words, commit=git.commit, changed=bool(git.diff), nodes=1, tasks_per_node=1, after=after)
        write_launch(folder, launched)
        append_event(folder, Event(at=int(time.time()), job=NO_JOB, restarts=0, event="start", nodes=socket.gethostname(), next="run"))
        code = _code([sys.executable, "-m", "megatron_mplug2.cli", *step.command.words], environ, lock)
        append_event(folder, Event(at=int(time.time()), job=NO_JOB, restarts=0, event="end", code=code, next="end"))
    return code


def _code(command: Sequence[str], environ: Mapping[str, str], lock: int) -> int:
    """As shells write it; STOPPED where the command was finished when it should have stopped: the next one is not to begin."""
    end = run_child(command, environ, lock)
    return ExitCode.STOPPED if end.asked_to_stop and not end.code else end.code
