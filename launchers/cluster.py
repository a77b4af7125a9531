"""What a cluster is, from a file of `configs/cluster`: this machine, or a SLURM partition with the shape of its nodes."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from launchers.yaml_file import read_yaml
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.errors import UserError

PROFILES = Path(__file__).parents[1] / "configs/cluster"

Line = Annotated[str, StringConstraints(pattern=r"^[^\r\n\x00]+$")]
"""A value of one line: it becomes a part of a line of the batch script."""
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


_NODES = re.compile(r"[A-Za-z0-9._,\[\]-]+")


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class Launcher(StrEnum):
    """What starts a node's ranks."""

    SRUN = "srun"
    """Each is a task of the job, with CPUs and logs of its own."""
    TORCHRUN = "torchrun"
    """One task a node: an agent of torchrun, which starts them. Where libraries expect torchrun's variables, or srun may not start more."""


class ContainerConfig(Frozen):
    """A container around every rank, by pyxis. The current folder and the run folder are mounted under their own names."""

    image: Line
    mounts: tuple[Line, ...] = ()


class HealthConfig(Frozen):
    """What the nodes of a job are asked before each of its starts (`launchers.health`)."""

    timeout_s: int = Field(default=120, gt=0)
    """How long a node waits for the others, and for their sum. Twice that is all that the check may take, imports too."""
    free_gb: float = Field(default=1.0, ge=0)
    """In a node's temporary folder, in 10^9 bytes: where data workers and compilers write."""


class LocalConfig(Frozen):
    """This machine."""

    gpus: int = Field(ge=0)
    """That it must have at least; 0 hides those that it has."""


class SlurmConfig(Frozen):
    """A partition, and how a job asks for its nodes."""

    max_nodes: int = Field(gt=0)
    tasks_per_node: int = Field(gt=0)
    """Ranks: one a GPU."""
    device: Device
    cpus_per_task: int = Field(gt=0)
    time_limit_min: int = Field(gt=0)
    """Of one start."""
    memory_gb: int | None = Field(default=None, ge=0)
    """Of a node; 0 is all of it, None the partition's default."""
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    exclude: tuple[Line, ...] = ()
    signal_lead_s: int = Field(default=120, gt=0, le=65535)
    """How long before a time limit or a preemption the ranks are asked to save; SLURM may be a minute early. 16 bits in SLURM."""
    requeue_limit: int = Field(default=20, ge=0)
    """Starts after the first one, whatever made them necessary (SLURM_RESTART_COUNT)."""
    python: Line | None = None
    """On the nodes; None is the one that launches, in a container `python3`."""
    setup: tuple[Line, ...] = ()
    """Shell lines, taken as they are."""
    environment: dict[Variable, Line | int] = Field(default_factory=dict)
    container: ContainerConfig | None = None
    launcher: Launcher = Launcher.SRUN
    health: HealthConfig | None = HealthConfig()
    """On unless it is set to null: it takes the seconds of an import at each start, where a bad node takes all its starts from a job."""

    @model_validator(mode="after")
    def _check(self) -> "SlurmConfig":
        if self.signal_lead_s >= 60 * self.time_limit_min:
            raise ValueError(
                f"signal_lead_s={self.signal_lead_s} takes all of time_limit_min={self.time_limit_min}: the ranks would be asked to save "
                "as soon as they begin; lower it, or give the job more time"
            )
        return self


class Cluster(Frozen):
    """One of the two."""

    local: LocalConfig | None = None
    slurm: SlurmConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> "Cluster":
        if (self.local is None) == (self.slurm is None):
            raise ValueError("a cluster is either local or slurm: give one of these sections")
        return self


def without_nodes(slurm: SlurmConfig, nodes: Sequence[str]) -> SlurmConfig:
    """A profile that leaves out more nodes. Raises UserError for what is no name of a node, or of several such as `node[1-3]`."""
    for node in nodes:
        if not _NODES.fullmatch(node):
            raise UserError(f"--exclude {node!r}: is no name of a node; give one, or several such as node[1-3]")
    return slurm.model_copy(update={"exclude": (*slurm.exclude, *nodes)})


def load_cluster(name: str) -> Cluster:
    """Reads a profile: a name in `configs/cluster`, or the path of a YAML file. Raises UserError, in one line."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    known = ", ".join(sorted(profile.stem for profile in PROFILES.glob("*.yaml")))
    return read_yaml(Cluster, path, f"--cluster {name}", f"name a file.yaml, or one of {known}")
