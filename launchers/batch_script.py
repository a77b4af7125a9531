"""From one frozen description of a job to the text of its batch script: a pure function, so that what SLURM runs can be read and tested.

The script is sbatch's, not one that submitit renders. submitit runs a pickled function and reports by pickles: a rank's exit code, by which
this script decides whether a requeue helps, does not come out of it; it saves in a signal handler of rank 0 alone, where our save is
collective; and what it would run is not a command that a person can type. Its reader of `sacct` serves in `launchers.queue`.
"""

import shlex
import signal
from dataclasses import dataclass
from pathlib import Path

from launchers.array import ARRAY_JOB, TASK, Array
from launchers.cluster import Device, HealthConfig, SlurmConfig
from launchers.exit_notes import FOLDER, WHY
from launchers.health import MARK
from launchers.health_task import NODES
from launchers.interpreter import NOT_THERE, looked_up
from launchers.launch_folder import CODE, LOGS, PROBES
from launchers.ports import FIRST_PORT, PORTS
from launchers.script_parts import BEGIN, CHECK, END, MEETING, RANKS
from launchers.stop_signal import STOP_SIGNAL
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import FOLDER as LAUNCH_FOLDER
from megatron_mplug2.observability.job_events import events_name

SAID_LAST = (ExitCode.MISTAKE, ExitCode.BROKEN_DATA, ExitCode.CUT_SHORT, ExitCode.STOPPED, ExitCode.HUNG, NOT_THERE, ExitCode.FAILED)
"""What a rank says for all, the weightiest first."""
FINAL = (ExitCode.FINISHED, ExitCode.MISTAKE, ExitCode.BROKEN_DATA)
"""After which another start would end the same way."""
PORT_STRIDE = 97
"""Between the ports of a job's starts, so that one doesn't meet what is left of the one before; the health check is half-way."""
_ROOM = 2**16
"""Bytes that a start needs at least, for what it tells."""
_TERMINATED = 128 + signal.SIGTERM
EARLY_S = 20
"""How long the other tasks of a health check may take to say what they find, once one has ended."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A run of one command on every task of a job. Paths are absolute."""

    name: str
    command: tuple[str, ...]
    """What each task runs."""
    python: str
    """The interpreter that it needs."""
    folder: Path
    """The launch's, as `launchers.launch_folder` lays it out."""
    work_dir: Path
    """Current folder of the tasks, to which relative paths of data refer."""
    run_dir: Path
    nodes: int
    tasks_per_node: int
    slurm: SlurmConfig
    check: tuple[str, ...] | None = None
    """What each task runs first, to look at its node (`launchers.health`); None where nobody looks."""
    array: Array | None = None
    """Whose tasks are jobs like this one."""
    ranks_per_task: int = 1
    """More than one where a task starts them."""

    @property
    def cpus_per_task(self) -> int:
        return self.slurm.cpus_per_task * self.ranks_per_task


def render(spec: JobSpec) -> str:
    """The batch script. Everything that a person named is quoted, except the lines of `setup`, which are shell by purpose."""
    check = [_check(spec, spec.slurm.health, spec.check)] if spec.slurm.health and spec.check else []
    parts = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={shlex.quote(value)}" for name, value in _options(spec)),
        BEGIN.format(
            folder=shlex.quote(str(spec.folder)),
            job=ARRAY_JOB if spec.array else "$SLURM_JOB_ID",
            events=events_name(f"${TASK}" if spec.array else None),
            limit=spec.slurm.requeue_limit,
            mistake=int(ExitCode.MISTAKE),
            room=_ROOM,
        ),
        *spec.slurm.setup,
        *(f"export {name}={shlex.quote(str(value))}" for name, value in spec.slurm.environment.items()),
        MEETING.format(code=CODE, notes=FOLDER, launch=LAUNCH_FOLDER, nodes=NODES, first=FIRST_PORT, ports=PORTS, stride=PORT_STRIDE),
        *check,
        RANKS.format(srun=_srun(_ranks_options(spec), spec.command if check else looked_up(spec.python, spec.command))),
        END.format(
            said_last=_words(SAID_LAST, " "),
            final=_words(FINAL, " | "),
            finished=int(ExitCode.FINISHED),
            failed=int(ExitCode.FAILED),
            mistake=int(ExitCode.MISTAKE),
            not_there=NOT_THERE,
            tasks=spec.nodes * spec.tasks_per_node,
            terminated=_TERMINATED,
            cut_short=int(ExitCode.CUT_SHORT),
            why=WHY,
        ),
    ]
    return "\n".join(parts)


def _srun(options: list[str], command: tuple[str, ...]) -> str:
    return " \\\n  ".join(["srun", *map(shlex.quote, options), shlex.join(command)])


def _check(spec: JobSpec, health: HealthConfig, command: tuple[str, ...]) -> str:
    return CHECK.format(
        probes=PROBES,
        offset=PORT_STRIDE // 2,
        limit=2 * health.timeout_s,
        step=_srun([*_step_options(spec), "--kill-on-bad-exit=0", f"--wait={EARLY_S}"], command),
        mark=MARK,
        terminated=_TERMINATED,
        tasks=spec.nodes * spec.tasks_per_node,
        bad_node=int(ExitCode.BAD_NODE),
    )


def _words(codes: tuple[int, ...], between: str) -> str:
    return between.join(str(int(code)) for code in codes)


def _options(spec: JobSpec) -> list[tuple[str, str | None]]:
    slurm = spec.slurm
    asked = {
        "job-name": spec.name,
        "array": str(spec.array) if spec.array else None,
        "chdir": str(spec.work_dir),
        "output": f"{_logs(spec)}_batch.log",
        "open-mode": "append",
        "nodes": str(spec.nodes),
        "ntasks-per-node": str(spec.tasks_per_node),
        "cpus-per-task": str(spec.cpus_per_task),
        "gpus-per-node": str(spec.tasks_per_node * spec.ranks_per_task) if slurm.device is Device.GPU else None,
        "mem": _memory(slurm.memory_gb),
        "time": str(slurm.time_limit_min),
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclude": ",".join(slurm.exclude) or None,
        "signal": f"{STOP_SIGNAL.name.removeprefix('SIG')}@{slurm.signal_lead_s}",
    }
    return [*((name, value) for name, value in asked.items() if value is not None), ("requeue", None)]


def _memory(gigabytes: int | None) -> str | None:
    return None if gigabytes is None else f"{gigabytes}G" if gigabytes else "0"


def _ranks_options(spec: JobSpec) -> list[str]:
    # srun lets the siblings of a dead task live.
    log = f"--output={_logs(spec)}.log" if spec.array else f"--output={_logs(spec)}_%t.log"
    return ["--kill-on-bad-exit=1", *_step_options(spec), "--unbuffered", "--open-mode=append", log]


def _step_options(spec: JobSpec) -> list[str]:
    # srun does not take over --cpus-per-task since SLURM 22.05.
    options = [f"--cpus-per-task={spec.cpus_per_task}"]
    if (container := spec.slurm.container) is not None:
        # The launch lies in the run's folder, or in a study's.
        launch = () if spec.folder.is_relative_to(spec.run_dir) else (spec.folder,)
        folders = dict.fromkeys(map(str, (spec.work_dir, spec.run_dir, *launch)))
        mounts = [*(f"{folder}:{folder}" for folder in folders), *container.mounts]
        options += [f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}"]
        options += [f"--container-workdir={spec.work_dir}"]
    return options


def _logs(spec: JobSpec) -> str:
    """What names of logs begin with: the job, and of an array the part."""
    return f"{_pattern(spec.folder / LOGS)}/" + ("%A_%a" if spec.array else "%j")


def _pattern(path: Path) -> str:
    """A path in which SLURM replaces nothing."""
    return str(path).replace("%", "%%")
