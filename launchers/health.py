"""Whether the nodes of a job can do the work, asked before its ranks start: `python -m launchers.health`, a task for each rank to come.

A task prints its verdict. The job's script (`launchers.batch_script`) reads them through srun, so that a node which does not see the run's
folder can say so, and decides: nodes that are ill by their own account are left out of the next start; else the one that most others miss;
else nobody can be blamed.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from launchers.cluster import Device, SlurmConfig
from launchers.health_task import Task, UnhealthyError, Verdict
from launchers.launch_folder import PROBES
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCH

MARK = "mplug2-health"
"""First word of a verdict's line: what libraries print stands between them."""
MOST_LETTERS = 300
"""Of a reason."""
GB = 1e9
_FOR_IT = f"""said=$("$@")
code=$?
case $said in
  *"{MARK} "*) printf "%s\\n" "$said" ;;
  *)
    if [ $code -ne {128 + signal.SIGKILL} ]; then
      echo "{MARK} {Verdict.ILL} $SLURMD_NODENAME its check ended with $code and gave no verdict, see the log of the batch script"
    fi
    ;;
esac
exit $code"""
"""A task's shell, which speaks for a check that cannot: there is no such interpreter on the node, or it crashes. Not for one that was
killed, as srun does to those that wait for others in vain."""


def command(python: str, launch: Path, slurm: SlurmConfig) -> tuple[str, ...] | None:
    """What every task runs; None where the profile wants no check."""
    if slurm.health is None:
        return None
    asked = (f"--device={slurm.device}", f"--free-gb={slurm.health.free_gb:g}", f"--timeout-s={slurm.health.timeout_s}")
    return ("sh", "-c", _FOR_IT, "sh", python, "-m", "launchers.health", str(launch), *asked)


def check(task: Task, launch: Path, device: Device, free_gb: float, timeout_s: float) -> None:
    """Raises UnhealthyError; ends the process where something stands still for one and a half times `timeout_s`."""
    limit = _Limit(task, 1.5 * timeout_s)
    look_at_node(task, launch, free_gb)
    try:
        from launchers import health_devices, health_meeting  # these import torch
    except (ImportError, OSError) as error:
        raise task.ill(f"it cannot import torch: {error}") from None
    place = health_devices.look_at_device(task, device)
    health_meeting.leave_probe(task, launch / PROBES, health_devices.name_of(task, place))
    limit.together = True
    health_meeting.meet(task, place, launch / PROBES, timeout_s)


def look_at_node(task: Task, launch: Path, free_gb: float) -> None:
    """Room for temporary files, and whether the run's folder is there. Raises UnhealthyError."""
    temporary = tempfile.gettempdir()
    free = shutil.disk_usage(temporary).free / GB
    if free < free_gb:
        raise task.ill(f"{temporary} has {free:.1f} GB free, health.free_gb asks for {free_gb:g}")
    if not (launch / LAUNCH).exists():
        raise task.ill(f"it does not see {launch / LAUNCH}: is that on storage that the nodes share?")


class _Limit:
    """Ends a task that stands still, and says so."""

    def __init__(self, task: Task, seconds: float) -> None:
        self._task, self._seconds = task, seconds
        self.together = False
        """Whether the task waits for others: then it is not itself to blame."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        verdict, what = (Verdict.VAIN, "the sum over all nodes") if self.together else (Verdict.ILL, "its device")
        say(verdict, [self._task.node], f"{what} gave no answer in {self._seconds:.0f} s")
        os._exit(1)


def say(verdict: Verdict, nodes: Sequence[str], why: str) -> None:
    """A line a node, in letters that JSON and a shell leave as they are."""
    plain = " ".join(why.translate({ord('"'): "'", ord("\\"): "/"}).split())
    plain = "".join(letter for letter in plain if letter.isprintable())[:MOST_LETTERS]
    sys.stdout.write("".join(f"{MARK} {verdict} {node} {plain}\n" for node in nodes))
    sys.stdout.flush()


def main(
    launch: Annotated[Path, typer.Argument(help="The launch's folder")],
    device: Annotated[Device, typer.Option()],
    free_gb: Annotated[float, typer.Option()],
    timeout_s: Annotated[float, typer.Option()],
) -> None:
    """Check this node together with the others of its job. For the job's script, under srun."""
    try:
        task = Task.of(os.environ)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    try:
        check(task, launch, device, free_gb, timeout_s)
    except UnhealthyError as error:
        say(error.verdict, error.nodes, str(error))
        os._exit(1)
    say(Verdict.WELL, [task.node], "")
    os._exit(0)  # at once: to part in good order is to wait for tasks that have gone


if __name__ == "__main__":
    typer.run(main)
