"""What the ranks of a point ran on, told by each of them when it has trained: names of nodes do not say it, since several may be one
machine; and nothing but the machine itself says whether others worked on it meanwhile."""

import os
import platform
import resource
import socket
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from launchers.sweep.results import Machines
from megatron_mplug2.config.node import Frozen

HOSTS = "hosts"
"""Folder in a point's run folder."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STAT = Path("/proc/stat")
_WAITS = (3, 4)
"""Columns of `_STAT` in which a core does nothing: idle, and waiting for a disk."""
SPARE = 0.3
"""Cores that the rest of a machine may take before its ranks' times are not their own."""


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
    seconds: float = Field(gt=0)
    """That it trained."""
    machine_s: float
    """Seconds that the machine's cores worked meanwhile, all together; 0 where that is not known."""
    own_s: float
    """Of these, for the rank and the processes that it started."""


class Watch:
    """Begins where a rank begins to train."""

    def __init__(self) -> None:
        self._at, self._machine_s, self._own_s = time.monotonic(), _machine_s(), _own_s()

    def host(self, threads: int, gpu: str | None) -> Host:
        """What the rank has run on until now."""
        return Host(
            machine=_BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname(),
            cores=tuple(sorted(os.sched_getaffinity(0))),
            threads=threads,
            gpu=gpu,
            processor=processor(),
            seconds=time.monotonic() - self._at,
            machine_s=_machine_s() - self._machine_s,
            own_s=_own_s() - self._own_s,
        )


def _machine_s() -> float:
    if not _STAT.exists():
        return 0.0
    ticks = [int(word) for word in _STAT.read_text().splitlines()[0].split()[1:9]]  # guests' time is in the first ones already
    return sum(count for column, count in enumerate(ticks) if column not in _WAITS) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def processor() -> str:
    """Name of this machine's."""
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
    others = {machine: _others(ranks) for machine, ranks in by_machine.items()}
    return Machines(
        count=len(by_machine),
        cores=min(cores.values()),
        device=hosts[0].gpu or hosts[0].processor,
        oversubscribed=any(asked[machine] > cores[machine] for machine in by_machine),
        others=max(others.values()),
        disturbed=any(others[machine] > SPARE and asked[machine] + others[machine] > cores[machine] for machine in by_machine),
    )


def _others(ranks: Sequence[Host]) -> float:
    """Cores that were at work for none of the ranks of a machine."""
    longest = max(ranks, key=lambda host: host.seconds)
    return max(0.0, longest.machine_s - sum(host.own_s for host in ranks)) / longest.seconds
