"""What the ranks of a point run on, told by each of them: names of nodes do not say it, since several may be one machine."""

import os
import platform
import socket
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from launchers.sweep.results import Machines
from megatron_mplug2.config.schema import Frozen

HOSTS = "hosts"
"""Folder in a point's run folder."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Host(Frozen):
    """Of one rank."""

    machine: str
    """The same for all ranks of a machine, and no others."""
    cores: tuple[int, ...]
    """Numbers of those that the rank may use."""
    threads: int
    """That it computes with."""
    gpu: str | None
    processor: str


def this_host(threads: int, gpu: str | None) -> Host:
    machine = _BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname()
    return Host(machine=machine, cores=tuple(sorted(os.sched_getaffinity(0))), threads=threads, gpu=gpu, processor=_processor())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def write_host(run_dir: Path, rank: int, host: Host) -> None:
    path = run_dir / HOSTS / f"{rank}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(host.model_dump_json() + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_hosts(run_dir: Path, ranks: int) -> list[Host]:
    """In the order of ranks. Raises ValueError where a rank has told nothing."""
    try:
        return [Host.model_validate_json((run_dir / HOSTS / f"{rank}.json").read_bytes()) for rank in range(ranks)]
    except (OSError, ValidationError):
        raise ValueError(f"not every rank has told in {run_dir / HOSTS} where it ran") from None


def machines_of(hosts: Sequence[Host]) -> Machines:
    """Ranks of a machine have the cores that any of them may use; a rank without a GPU asks for as many as it has threads."""
    by_machine = defaultdict(list)
    for host in hosts:
        by_machine[host.machine].append(host)
    cores = {machine: len({core for host in ranks for core in host.cores}) for machine, ranks in by_machine.items()}
    asked = {machine: sum(host.threads for host in ranks if host.gpu is None) for machine, ranks in by_machine.items()}
    return Machines(
        count=len(by_machine),
        cores=min(cores.values()),
        device=hosts[0].gpu or hosts[0].processor,
        oversubscribed=any(asked[machine] > cores[machine] for machine in by_machine),
    )
