"""Whether the nodes of a job reach one another: they meet, sum as the training does, and read what each wrote into the run's folder."""

import os
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore  # torch.distributed has them too, but not for a type checker

from launchers.health_task import Task, UnhealthyError, Verdict

AMOUNT = 2**20
"""Numbers that every task gives to the sum."""
SEEN_WITHIN_S = 60.0
"""By when all nodes see a file that one has written: NFS remembers for so long that there was none (acdirmax)."""


def leave_probe(task: Task, folder: Path, device: str) -> None:
    """Writes a file for the other nodes to read. Raises UnhealthyError where it cannot."""
    probe = folder / str(task.rank)
    unfinished = folder / f".{task.rank}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        unfinished.write_text(f"{task.node} {device}")
        unfinished.replace(probe)
    except OSError as error:
        raise task.ill(f"it cannot write into {folder}: {error.strerror}") from None


def meet(task: Task, place: torch.device, probes: Path, timeout_s: float) -> None:
    """Waits for all tasks, sums over them, and reads what they wrote. Nobody goes before all have done so. Raises UnhealthyError."""
    limit = timedelta(seconds=timeout_s)
    try:
        store = TCPStore(task.address, task.port, task.world_size, task.rank == 0, limit, wait_for_workers=False)
        store.set(f"come/{task.rank}", task.node)
    except RuntimeError as error:
        verdict = Verdict.VAIN if task.rank == 0 else Verdict.MISSES
        raise UnhealthyError(verdict, task.nodes[:1], f"{task.node} cannot meet at {task.address}:{task.port}: {error}") from None
    wait_for_all(task, store, limit)
    _sum(task, store, place, limit)
    if task.local_rank == 0:
        read_probes(task, probes)
    _part(task, store, limit + timedelta(seconds=SEEN_WITHIN_S))


def wait_for_all(task: Task, store: Store, limit: timedelta) -> None:
    """Raises UnhealthyError with the nodes whose tasks have not all come."""
    keys = [f"come/{rank}" for rank in range(task.world_size)]
    try:
        store.wait(keys, limit)
        return
    except RuntimeError:
        pass
    try:
        come = Counter(store.get(key).decode() for key in keys if store.check([key]))
    except RuntimeError:  # the first task went away, with the store
        raise UnhealthyError(Verdict.MISSES, task.nodes[:1], f"{task.node} has lost it while it waited for the others") from None
    missing = [node for node in task.nodes if come[node] < task.on_each]
    raise UnhealthyError(Verdict.MISSES, missing, f"{task.node} waited {limit.total_seconds():.0f} s for it")


def _sum(task: Task, store: Store, place: torch.device, limit: timedelta) -> None:
    backend = "nccl" if place.type == "cuda" else "gloo"
    try:
        if place.type == "cuda":
            torch.cuda.set_device(place)
        dist.init_process_group(backend, store=store, rank=task.rank, world_size=task.world_size, timeout=limit)
        numbers = torch.full((AMOUNT,), float(task.rank), device=place)
        dist.all_reduce(numbers)
        right = bool((numbers == task.world_size * (task.world_size - 1) / 2).all())
    except RuntimeError as error:
        raise UnhealthyError(Verdict.VAIN, [task.node], f"{backend} cannot sum over all nodes: {error}") from None
    if not right:
        raise UnhealthyError(Verdict.VAIN, [task.node], f"{backend} sums wrong over all nodes")


def _part(task: Task, store: Store, limit: timedelta) -> None:
    """Nobody goes while another still sums or reads, and the first one, who has the store, goes last."""
    try:
        for word, waits in (("done", True), ("gone", task.rank == 0)):
            store.set(f"{word}/{task.rank}", "")
            if waits:
                store.wait([f"{word}/{rank}" for rank in range(task.world_size)], limit)
    except RuntimeError as error:
        raise UnhealthyError(Verdict.VAIN, [task.node], f"others did not come to the end of the check: {error}") from None


def read_probes(task: Task, folder: Path) -> None:
    """What all tasks wrote, and whether those of this node have a device each. Raises UnhealthyError."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while unseen := [rank for rank in range(task.world_size) if not (folder / str(rank)).exists()]:
        if time.monotonic() > deadline:
            nodes = list(dict.fromkeys(task.nodes[rank // task.on_each] for rank in unseen))
            raise UnhealthyError(Verdict.MISSES, nodes, f"{task.node} does not see what it wrote into {folder}")
        os.listdir(folder)  # asks a file server anew
        time.sleep(0.2)
    probes = [(folder / str(rank)).read_text().split(" ", 1) for rank in range(task.world_size)]
    devices = [device for node, device in probes if node == task.node]
    if len(set(devices)) < len(devices):
        raise task.ill(f"its {len(devices)} ranks have {len(set(devices))} GPUs")
