"""Ranks that torchrun starts in a job: what each node's task runs, and the agent that it is.

    python -m launchers.torchrun AS_TORCHRUN_TAKES_IT ...

It is torchrun with the cluster's signal held back. SLURM sends that to every process of a job; it would end the agent, and the agent
its ranks, which are to save. They inherit that it is held back, and take it when they train.
"""

import shlex
from collections.abc import Sequence

from launchers.stop_signal import hold_back

CLI = "megatron_mplug2.cli"
AGENT = "launchers.torchrun"


def agent_command(python: str, arguments: Sequence[str], nodes: int, ranks_per_node: int) -> tuple[str, ...]:
    """For a shell on each node, which puts in the node's number and where the first agent listens, and nothing else.

    The job's script requeues; so an agent whose rank fails does not start it again, and ports are new at each start.
    """
    agent = shlex.join((python, "-m", AGENT, f"--nnodes={nodes}", f"--nproc-per-node={ranks_per_node}", "--max-restarts=0"))
    place = '--node-rank="$SLURM_NODEID" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT"'
    return ("sh", "-c", f'exec {agent} {place} -m {CLI} "$@"', "sh", *arguments)


def main() -> None:
    hold_back()  # before threads are started
    from torch.distributed.run import main as torchrun

    torchrun()


if __name__ == "__main__":
    main()
