"""Seconds of the quickest of many runs."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from megatron_mplug2.parallel.device import device, on_gpu

BUDGET_S, LEAST_RUNS, MOST_RUNS = 0.25, 6, 200


def quickest(work: Callable[[], Any]) -> float:
    """Of as many runs on all ranks of the world, which the work may have exchanges between; after one to warm up.

    On a CPU they are seconds of the thread itself: neither what else the machine does counts, nor a wait for another rank.
    """
    work()
    begin, first = time.perf_counter(), _seconds(work)
    slowest = torch.tensor(time.perf_counter() - begin, device=device())
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    more = min(MOST_RUNS, max(LEAST_RUNS, round(BUDGET_S / float(slowest)))) - 1
    return min(first, *(_seconds(work) for _ in range(more)))


def _seconds(work: Callable[[], Any]) -> float:
    clock = time.perf_counter if on_gpu() else time.thread_time
    start = clock()
    work()
    if on_gpu():
        torch.cuda.synchronize()
    return clock() - start
