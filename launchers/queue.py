"""What SLURM knows of jobs, with and without accounting, and what it is told."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_mplug2.errors import UserError

PATIENCE_S = 60
"""For an answer of SLURM's controller; its own clients give up after less."""
UNKNOWN = "UNKNOWN"
STARTED_BY = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of an allocation or a torchrun from inside which a job is submitted: its own are others."""


class RefusedError(UserError):
    """SLURM did not take a job; so there is none."""


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job that waits, runs, or is about to be started again."""

    job: str
    state: str
    """SLURM's word, such as PENDING."""
    reason: str
    nodes: str
    script: Path


def submit(script: Path, after: Sequence[str]) -> str:
    """Hands a batch script over; returns the job's number, of an array the one that all its tasks share.

    The job starts when all those of `after` have ended well, and is cancelled once one of them has not. Raises RefusedError with what
    sbatch said.
    """
    waits = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    done = _slurm(["sbatch", "--parsable", *waits, str(script)])
    if done.returncode:
        raise RefusedError(f"SLURM refused the job: {_one_line(done.stderr)}")
    return done.stdout.strip().split(";")[0]


def queued() -> list[QueuedJob]:
    """All of this user's jobs that have not ended; of an array, those of its tasks that go by themselves already and one for the others."""
    done = _slurm(["squeue", "--noheader", "--me", "--format=%F|%T|%r|%N|%o"])
    if done.returncode:
        raise UserError(f"squeue does not answer: {_one_line(done.stderr)}; try again, or ask those who run the cluster")
    return [_queued_job(*line.split("|", 4)) for line in done.stdout.splitlines()]


def _queued_job(job: str, state: str, reason: str, nodes: str, script: str) -> QueuedJob:
    return QueuedJob(job=job, state=state, reason=reason, nodes=nodes, script=Path(script))


def ended_state(job: str) -> str:
    """SLURM's word for the end of a job that is no longer queued; UNKNOWN where the controller has forgotten it and accounting lacks it."""
    shown = _slurm(["scontrol", "show", "job", job, "--oneliner"])  # remembers for minutes (MinJobAge)
    states = [field.removeprefix("JobState=") for field in shown.stdout.split() if field.startswith("JobState=")]
    if states:  # an array has one for each task
        return next((state for state in states if state != "COMPLETED"), "COMPLETED")
    if shutil.which("sacct") is None:
        return UNKNOWN
    from submitit.slurm.slurm import SlurmInfoWatcher

    accounted = _slurm(["sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job])
    if accounted.returncode:  # no accounting
        return UNKNOWN
    return SlurmInfoWatcher().read_info(accounted.stdout).get(job, {}).get("State", UNKNOWN).split()[0]


def cancel(job: str) -> None:
    """Raises UserError with what scancel said."""
    done = _slurm(["scancel", job])
    if done.returncode:
        raise UserError(f"job {job} was not cancelled: {_one_line(done.stderr)}")


def _slurm(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Without the variables of an allocation that this may run in, and which would become the new job's."""
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not on this machine: use a login node of the cluster (mplug2 launch --dry-run works anywhere)")
    environ = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or (not name.startswith(("SLURM_", "SLURMD_", "PMI_")) and name not in STARTED_BY)
    }
    try:
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as error:
        said = _one_line((error.stderr or b"").decode(errors="replace"))
        raise UserError(f"{command[0]} has not answered for {PATIENCE_S} s ({said}): try again, or ask those who run the cluster") from None


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "it gave no reason"
