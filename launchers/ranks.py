"""One rank of a run: which place it has, who started it, and what is set up around the work."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from launchers.ports import FIRST_PORT, PORTS
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.parallel import device
from megatron_mplug2.parallel.topology import GROUP_TIMEOUT, forget_groups

Entry = Callable[[RunConfig], ExitCode | None]
"""The work of a rank; torch.distributed is initialised around it. Returns STOPPED where it was asked to stop and may go on later."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among the ranks, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    init_method: str
    """URL for `torch.distributed.init_process_group`."""
    started_by: str


def joined_ranks(environ: Mapping[str, str]) -> Ranks | None:
    """The place that torchrun or srun gave this process; None where nobody started ranks.

    An srun of one task counts as a shell (`srun --pty bash`, or one task a node that starts the local ranks itself).
    Raises UserError for variables that are no numbers or are missing beside others.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return Ranks(
            rank=_number(environ, "RANK"),
            world_size=_number(environ, "WORLD_SIZE"),
            local_rank=_number(environ, "LOCAL_RANK", "0"),
            init_method="env://",
            started_by="torchrun",
        )
    # SLURM_PROCID alone is set in the batch script too, where there is one process whatever the job's number of tasks.
    if "SLURM_PROCID" in environ and _number(environ, "SLURM_STEP_NUM_TASKS", "1") > 1:
        return Ranks(
            rank=_number(environ, "SLURM_PROCID"),
            world_size=_number(environ, "SLURM_STEP_NUM_TASKS"),
            local_rank=_number(environ, "SLURM_LOCALID"),
            init_method=f"tcp://{_master_address(environ)}:{_master_port(environ)}",
            started_by="srun",
        )
    return None


def _number(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"the environment has {name}={text!r}, which is not a number: unset it, or start ranks by torchrun or srun"
        ) from None


def _master_address(environ: Mapping[str, str]) -> str:
    """MASTER_ADDR, or the node of srun's rank 0."""
    if "MASTER_ADDR" in environ:
        return environ["MASTER_ADDR"]
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
    if shutil.which("scontrol", path=environ.get("PATH")) is None:
        raise UserError(f"srun: cannot name the first of the nodes {nodes!r} without scontrol: set MASTER_ADDR to its host name")
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], env=dict(environ), capture_output=True, text=True, check=False)
    if shown.returncode or not shown.stdout.split():
        raise UserError(
            f"srun: scontrol cannot name the nodes {nodes!r} ({shown.stderr.strip()}): set MASTER_ADDR to the first one's host name"
        )
    return shown.stdout.split()[0]


def _master_port(environ: Mapping[str, str]) -> int:
    if "MASTER_PORT" in environ:
        return _number(environ, "MASTER_PORT")
    return FIRST_PORT + (_number(environ, "SLURM_JOB_ID", "0") + _number(environ, "SLURM_STEP_ID", "0")) % PORTS


def check_world_size(layout: LayoutConfig, ranks: Ranks) -> None:
    """Raises UserError where there are more or fewer ranks than the layout asks for."""
    if ranks.world_size != layout.world_size:
        asked = f"{layout.world_size} rank{'s' if layout.world_size > 1 else ''}"
        sizes = f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}"
        raise UserError(f"layout asks for {asked} = {sizes}, {ranks.started_by} started {ranks.world_size}")


def run_rank(ranks: Ranks, config: RunConfig, entry: Entry) -> ExitCode:
    """Meets the other ranks, does the work, and parts. After a failure the others are not waited for."""
    os.environ["OMP_NUM_THREADS"] = str(config.training.threads)  # for the processes that this one starts
    torch.set_num_threads(config.training.threads)
    device.keep_freed_memory()
    if device.on_gpu():
        # srun may show each task its own GPU only, as number 0.
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        device.backend(), timeout=GROUP_TIMEOUT, init_method=ranks.init_method, rank=ranks.rank, world_size=ranks.world_size
    )
    try:
        end = entry(config)
    except BaseException:
        if ranks.world_size == 1:
            _part()
        raise
    _part()
    return ExitCode.FINISHED if end is None else end


def _part() -> None:
    dist.destroy_process_group()
    forget_groups()
