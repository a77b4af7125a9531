"""Calls a function on several ranks of this machine: one core each, or one GPU."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from megatron_mplug2.parallel.device import backend, on_gpu

Found = TypeVar("Found")


def usable_ranks() -> int:
    """GPUs, or else cores."""
    return torch.cuda.device_count() if on_gpu() else len(os.sched_getaffinity(0))


def run_ranks(count: int, function: Callable[..., Found], *arguments: Any, world: int | None = None) -> list[Found]:
    """What `function(*arguments)` returns on each of so many processes, forked from this one and run at once, by rank.

    They are the ranks of one world, or of several with `world` ranks each. Raises RuntimeError where one fails.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_run, args=(rank, world or count, Path(folder), function, arguments)) for rank in range(count)]
        for process in processes:
            process.start()
        waiting = {process.sentinel: process for process in processes}
        while waiting:
            for ready in wait(list(waiting)):
                ended = waiting.pop(ready)  # type: ignore[arg-type]
                ended.join()
                if ended.exitcode:
                    for other in waiting.values():
                        other.terminate()
                        other.join()
                    raise RuntimeError(f"a rank of {function.__name__} ended with {ended.exitcode}; its traceback is above")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _run(rank: int, world: int, folder: Path, function: Callable[..., Found], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if on_gpu():
        torch.cuda.set_device(rank)
    rendezvous = folder / f"rendezvous-{rank // world}"
    dist.init_process_group(backend(), init_method=f"file://{rendezvous}", rank=rank % world, world_size=world)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    dist.barrier()  # a rank that leaves early takes its connections from one that is still making them
    dist.destroy_process_group()
