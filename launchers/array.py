"""A command of a data stage as a job array: each task does one part, and SLURM starts, ends and requeues it by itself.

Nothing joins the parts afterwards. A part that is done looks, alone in the stage's folder, whether the others are too, and the last one
writes what needs all of them (`data_tools.stages.stage`); so the array has ended well when the folder is finished.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

TASK = "SLURM_ARRAY_TASK_ID"
ARRAY_JOB = f"${{SLURM_ARRAY_JOB_ID}}_${TASK}"
"""What SLURM's tools call one task: the number of its job (SLURM_JOB_ID) may be that of the whole array, and then means all of them."""


@dataclass(frozen=True, kw_only=True)
class Array:
    parts: int
    at_once: int | None = None
    """Most tasks that run at the same time; None is no bound but the cluster's."""

    def __str__(self) -> str:
        """As sbatch takes it: parts count from 1, as those of `--part`."""
        return f"1-{self.parts}" + ("" if self.at_once is None else f"%{self.at_once}")


def part_command(name: Sequence[str], arguments: Sequence[str], array: Array) -> tuple[str, ...]:
    """What a task runs: `name --part I/N arguments`, where a shell puts in the number that SLURM gave the task, and nothing else."""
    part = f'"${TASK}/{array.parts}"'
    return ("sh", "-c", f'exec {shlex.join(name)} --part {part} "$@"', "sh", *arguments)
