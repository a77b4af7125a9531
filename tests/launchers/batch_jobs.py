"""The batch script under a real shell, with programs in the place of SLURM's."""

import os
import resource
import subprocess
from pathlib import Path

from launchers import health
from launchers.batch_script import JobSpec, render
from launchers.cluster import Device, SlurmConfig
from megatron_mplug2.observability.job_events import read_events

PLAIN = SlurmConfig(max_nodes=1, tasks_per_node=2, device=Device.CPU, cpus_per_task=4, time_limit_min=60)


def spec(nodes: int, slurm: SlurmConfig, folder: Path = Path("/shared/runs/large/launches/0001")) -> JobSpec:
    return JobSpec(
        name="large",
        command=("python3", "-m", "megatron_mplug2.cli", "pretrain", f"{folder}/config.yaml"),
        python="python3",
        folder=folder,
        work_dir=Path("/shared/project"),
        run_dir=Path("/shared/runs/large"),
        nodes=nodes,
        tasks_per_node=slurm.tasks_per_node,
        slurm=slurm,
        check=health.command("python3", folder, slurm),
    )


STAND_INS = {
    "srun": """case "$*" in *launchers.health*) cat health.said; exit ;; esac
printf "%s\\n" "$@" > srun.args; echo "$TOLD" > srun.env; {said} exit {code}""",
    "scontrol": """case "$1 $2" in
  "show hostnames") printf 'node1\\nnode2\\n' ;;
  "show job") cat preempted 2> /dev/null; echo "   ReqNodeList=(null) ExcNodeList=$(cat excluded 2> /dev/null || echo '(null)')" ;;
  *) echo "$@" >> scontrol.args ;;
esac""",
    "squeue": "echo {state}",
}


WELL = "".join(f"mplug2-health well node{node} \n" for node in (1, 1, 2, 2))


def run(
    folder: Path,
    slurm: SlurmConfig,
    *,
    code: int,
    said: str = "",
    state: str = "RUNNING",
    restarts: int = 0,
    nodes: str = WELL,
    count: int = 2,
    most_bytes: int = resource.RLIM_INFINITY,
) -> int:
    """The script, in `folder`, with programs in the place of SLURM's. `nodes`: what they say of their health. `count`: of nodes.
    `most_bytes`: that a file may have."""
    (folder / "health.said").write_text(nodes)
    said = said or ("" if code else "echo 0 > $MPLUG2_EXIT_NOTES/0;")  # as every rank that ends well
    programs = folder / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(
            "#!/bin/sh\n" + body.replace("{code}", str(code)).replace("{said}", said).replace("{state}", state) + "\n"
        )
        (programs / name).chmod(0o755)
    (folder / "job.sh").write_text(render(spec(count, slurm, folder)))
    environ = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"}
    environ |= {"SLURM_RESTART_COUNT": str(restarts), "SLURM_JOB_NUM_NODES": str(count), "SLURMD_NODENAME": "node1"}
    done = subprocess.run(
        ["bash", "job.sh"],
        cwd=folder,
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
        restore_signals=False,  # a file that grows too large is an error, and no signal
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    return done.returncode


def last_event(folder: Path) -> tuple[int | None, str, str]:
    event = read_events(folder)[-1]
    assert event.event == "end"
    return event.code, event.next, event.why
