"""From one frozen description of a job to the text of its batch script: a pure function, so that what SLURM runs can be read and tested.

The script is sbatch's, not one that submitit renders. submitit runs a pickled function and reports by pickles: a rank's exit code, by which
this script decides whether a requeue helps, does not come out of it; it saves in a signal handler of rank 0 alone, where our save is
collective; and what it would run is not a command that a person can type. Its reader of `sacct` serves in `launchers.queue`.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from launchers.cluster import Device, HealthConfig, SlurmConfig
from launchers.exit_notes import FOLDER
from launchers.health import MARK
from launchers.health_task import NODES
from launchers.launch_folder import CODE, EVENTS, LOGS, PROBES
from launchers.ports import FIRST_PORT, PORTS
from launchers.stop_signal import STOP_SIGNAL
from megatron_mplug2.errors import ExitCode

SAID_LAST = (ExitCode.MISTAKE, ExitCode.BROKEN_DATA, ExitCode.STOPPED)
"""What a rank says for all, the weightiest first; anything else is a failure of the job."""
FINAL = (ExitCode.FINISHED, ExitCode.MISTAKE, ExitCode.BROKEN_DATA)
"""After which another start would end the same way."""
PORT_STRIDE = 97
"""Between the ports of a job's starts, so that one doesn't meet what is left of the one before; the health check is half-way."""
EARLY_S = 20
"""How long the other tasks of a health check may take to say what they find, once one has ended."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A run of one command on every task of a job. Paths are absolute."""

    name: str
    command: tuple[str, ...]
    """What each task runs."""
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


def render(spec: JobSpec) -> str:
    """The batch script. Everything that a person named is quoted, except the lines of `setup`, which are shell by purpose."""
    parts = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={shlex.quote(value)}" for name, value in _options(spec)),
        _BEGIN.format(folder=shlex.quote(str(spec.folder)), events=EVENTS, limit=spec.slurm.requeue_limit, mistake=int(ExitCode.MISTAKE)),
        *spec.slurm.setup,
        *(f"export {name}={shlex.quote(str(value))}" for name, value in spec.slurm.environment.items()),
        _MEETING.format(code=CODE, notes=FOLDER, nodes=NODES, first=FIRST_PORT, ports=PORTS, stride=PORT_STRIDE),
        *([_check(spec, spec.slurm.health, spec.check)] if spec.slurm.health and spec.check else []),
        "code=0",
        _srun(_ranks_options(spec), spec.command) + " || code=$?",
        _END.format(said_last=_words(SAID_LAST, " "), final=_words(FINAL, " | "), finished=int(ExitCode.FINISHED)),
    ]
    return "\n".join(parts)


def _srun(options: list[str], command: tuple[str, ...]) -> str:
    return " \\\n  ".join(["srun", *map(shlex.quote, options), shlex.join(command)])


def _check(spec: JobSpec, health: HealthConfig, command: tuple[str, ...]) -> str:
    return _CHECK.format(
        probes=PROBES,
        offset=PORT_STRIDE // 2,
        limit=2 * health.timeout_s,
        step=_srun([*_step_options(spec), "--kill-on-bad-exit=0", f"--wait={EARLY_S}"], command),
        mark=MARK,
        tasks=spec.nodes * spec.tasks_per_node,
        bad_node=int(ExitCode.BAD_NODE),
    )


def _words(codes: tuple[ExitCode, ...], between: str) -> str:
    return between.join(str(int(code)) for code in codes)


def _options(spec: JobSpec) -> list[tuple[str, str | None]]:
    slurm = spec.slurm
    asked = {
        "job-name": spec.name,
        "chdir": str(spec.work_dir),
        "output": f"{_pattern(spec.folder / LOGS)}/%j_batch.log",
        "open-mode": "append",
        "nodes": str(spec.nodes),
        "ntasks-per-node": str(spec.tasks_per_node),
        "cpus-per-task": str(slurm.cpus_per_task),
        "gpus-per-node": str(spec.tasks_per_node) if slurm.device is Device.GPU else None,
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
    log = f"--output={_pattern(spec.folder / LOGS)}/%j_%t.log"
    return ["--kill-on-bad-exit=1", *_step_options(spec), "--unbuffered", "--open-mode=append", log]


def _step_options(spec: JobSpec) -> list[str]:
    # srun does not take over --cpus-per-task since SLURM 22.05.
    options = [f"--cpus-per-task={spec.slurm.cpus_per_task}"]
    if (container := spec.slurm.container) is not None:
        folders = dict.fromkeys(map(str, (spec.work_dir, spec.run_dir)))
        mounts = [*(f"{folder}:{folder}" for folder in folders), *container.mounts]
        options += [f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}"]
        options += [f"--container-workdir={spec.work_dir}"]
    return options


def _pattern(path: Path) -> str:
    """A path in which SLURM replaces nothing."""
    return str(path).replace("%", "%%")


_BEGIN = """
# Written by `mplug2 launch`. What it does when the ranks have ended: launchers/batch_script.py of the project.
set -e -o pipefail
launch={folder}
restarts=${{SLURM_RESTART_COUNT:-0}}
notes=$launch/exits/$SLURM_JOB_ID.$restarts
if ! mkdir -p "$notes"; then
  echo "error: cannot write into $launch: run_dir must be on storage that the nodes share; mplug2 jobs resume starts it again" >&2
  exit {mistake}
fi
event() {{ # event, exit code, what comes next; nodes (all) and reason (none)
  printf '{{"at": %s, "job": %s, "restarts": %s, "event": "%s", "code": %s, "next": "%s", "nodes": "%s", "why": "%s"}}\\n' \\
    "$(date +%s)" "$SLURM_JOB_ID" "$restarts" "$1" "$2" "$3" "${{4:-$SLURM_JOB_NODELIST}}" "${{5:-}}" >> "$launch/{events}"
}}
leave() {{ # exit code, requeue or end, nodes that the next start is to leave out
  local next=$2 excluded
  if [ "$next" = requeue ] && [ "$restarts" -ge {limit} ]; then next=limit; fi
  # A job that was cancelled or preempted meanwhile is not this script's to start again; a controller that is away has said nothing.
  case $next$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T) in
    requeueRUNNING | requeue) ;;
    requeue*) next=end ;;
  esac
  event end "$1" "$next"
  if [ "$next" = limit ]; then echo "error: started {limit} times again, which is requeue_limit: not requeued" >&2; fi
  if [ "$next" = requeue ]; then
    trap '' TERM # comes with a requeue
    for pause in 0 10 60 120 end; do
      if [ $pause = end ]; then
        echo "error: SLURM did not take the job back (see above): mplug2 jobs resume starts it again" >&2
        exit "$1"
      fi
      sleep $pause
      if scontrol requeue "$SLURM_JOB_ID"; then break; fi
    done
    if [ -n "${{3:-}}" ]; then # only a job that waits lets its nodes be chosen anew
      excluded=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.*ExcNodeList=\\([^ ]*\\).*/\\1/p' | grep -vx '(null)') || true
      scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=${{excluded:+$excluded,}}$3" ||
        echo "error: SLURM does not leave $3 out of the next start (see above)" >&2
    fi
  fi
  exit "$1"
}}
event start null run
trap 'event end $? end' ERR # a set-up that fails would fail again: no requeue
if ! command -v scontrol > /dev/null; then
  echo "error: no scontrol on $SLURMD_NODENAME, by which this job is started again: a container belongs into the cluster's profile" >&2
  leave {mistake} end
fi
"""

_MEETING = """
port() {{ # of this start, by its use
  echo $(({first} + (SLURM_JOB_ID + {stride} * restarts + $1) % {ports}))
}}
export PYTHONPATH=$launch/{code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1 {notes}=$notes
# Named here, since a container has no scontrol.
{nodes}=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -s -d ' ')
: "${{MASTER_ADDR:=${{{nodes}%% *}}}}"
export {nodes} MASTER_ADDR MASTER_PORT=$(port 0)
"""

_CHECK = """# The nodes are looked at first: launchers/health.py. What they say comes through srun, not through the folder that they look at.
rm -rf "$launch/{probes}"
said=$(MASTER_PORT=$(port {offset}) timeout --kill-after=30 {limit} \\
  {step}) || true
rm -rf "$launch/{probes}"
echo "$said" >&2
said=$(grep '^{mark} ' <<< "$said") || true
if [ "$(grep -c '^{mark} well ' <<< "$said")" -ne {tasks} ]; then
  bad=$(awk '$2 == "ill" {{print $3}}' <<< "$said" | sort -u)
  if [ -z "$bad" ]; then # then the node that most miss, where it is one
    bad=$(awk '$2 == "misses" {{print $3}}' <<< "$said" | sort | uniq -c | sort -rn |
      awk 'NR == 1 {{most = $1; node = $2}} NR == 2 && $1 == most {{node = ""}} END {{print node}}')
  fi
  why=$(awk -v bad="${{bad%%$'\n'*}}" '$2 != "well" && (bad == "" || $3 == bad) {{$1 = $2 = ""; print substr($0, 3); exit}}' <<< "$said")
  : "${{why:=no node has answered}}"
  if [ -z "$bad" ]; then
    event unhealthy null requeue "" "$why"
    echo "error: the health check failed, and no node is surely to blame: $why" >&2
    leave {bad_node} requeue
  elif [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$(wc -l <<< "$bad")" -eq "$SLURM_JOB_NUM_NODES" ]; then
    event unhealthy null end "" "$why"
    echo "error: the health check failed on every node: $why" >&2
    leave {bad_node} end
  fi
  bad=$(paste -s -d , <<< "$bad")
  event unhealthy null exclude "$bad" "$why"
  echo "error: the health check failed, the next start leaves out $bad: $why" >&2
  leave {bad_node} requeue "$bad"
fi
"""

_END = """
# A rank that ends takes the others with it, and srun then tells of those that it killed: what a rank said itself weighs more.
if [ "$code" -ne {finished} ]; then
  for said in {said_last}; do
    if grep -qsx "$said" "$notes"/*; then
      code=$said
      break
    fi
  done
fi
case $code in
  {final}) leave "$code" end ;;
  *) leave "$code" requeue ;;
esac
"""
