"""A task of the health check (`launchers.health`): its place in the job, and what it can say of a node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from megatron_mplug2.errors import UserError

NODES = "MPLUG2_NODES"
"""Environment variable, set by the job's script: the names of all nodes."""


class Verdict(StrEnum):
    WELL = "well"
    ILL = "ill"
    """Of the node that says it: it is surely to blame."""
    MISSES = "misses"
    """Of another node, which cannot be reached or does not come; either of the two may be to blame."""
    VAIN = "vain"
    """What all do together failed, and nobody can tell by whom."""


class UnhealthyError(Exception):
    """Ends the check of this task."""

    def __init__(self, verdict: Verdict, nodes: Sequence[str], why: str) -> None:
        super().__init__(why)
        self.verdict, self.nodes = verdict, nodes


@dataclass(frozen=True, kw_only=True)
class Task:
    node: str
    rank: int
    local_rank: int
    world_size: int
    nodes: tuple[str, ...]
    """Of the job, with as many tasks on each; the first one has rank 0."""
    address: str
    port: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Task":
        """From the variables of srun and of the job's script. Raises UserError where they are not there."""
        try:
            return cls(
                node=environ["SLURMD_NODENAME"],
                rank=int(environ["SLURM_PROCID"]),
                local_rank=int(environ["SLURM_LOCALID"]),
                world_size=int(environ["SLURM_STEP_NUM_TASKS"]),
                nodes=tuple(environ[NODES].split()),
                address=environ["MASTER_ADDR"],
                port=int(environ["MASTER_PORT"]),
            )
        except KeyError as error:
            raise UserError(f"{error.args[0]} is not set: a job's script runs this under srun, see launchers/batch_script.py") from None

    @property
    def on_each(self) -> int:
        """Tasks of a node."""
        return self.world_size // len(self.nodes)

    def ill(self, why: str) -> UnhealthyError:
        return UnhealthyError(Verdict.ILL, [self.node], why)
