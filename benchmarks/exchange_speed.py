"""How quickly the ranks of a world exchange tensors, by bytes."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from megatron_mplug2.parallel.device import device, on_gpu
from megatron_mplug2.planner.rates import Curve, Exchange

SIZES = tuple(4**power for power in range(4, 14))
"""Bytes of exchanges, 256 to 67 M."""


def measure_exchanges() -> dict[Exchange, Curve]:
    """On one rank of a world."""
    return {exchange: Curve(tuple((size, size / _exchange_seconds(exchange, size)) for size in SIZES)) for exchange in Exchange}


def _exchange_seconds(exchange: Exchange, size: int) -> float:
    ranks, rank = dist.get_world_size(), dist.get_rank()
    whole = torch.zeros(size // 4, device=device())
    part = torch.zeros(max(1, size // 4 // ranks), device=device())
    whole = whole[: len(part) * ranks]

    def message() -> None:
        if rank < 2:
            (dist.send if rank == 0 else dist.recv)(whole, 1 - rank)
            (dist.recv if rank == 0 else dist.send)(whole, 1 - rank)

    work: dict[Exchange, tuple[Callable[[], Any], int]] = {
        Exchange.ALL_REDUCE: (lambda: dist.all_reduce(whole), 1),
        Exchange.REDUCE_SCATTER: (lambda: dist.reduce_scatter_tensor(part, whole), 1),
        Exchange.ALL_GATHER: (lambda: dist.all_gather_into_tensor(whole, part), 1),
        Exchange.MESSAGE: (message, 2),
    }
    run, exchanges = work[exchange]
    seconds = []
    for _ in range(10 if size > 1 << 20 else 60):
        dist.barrier()
        start = time.perf_counter()
        run()
        if on_gpu():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / exchanges
