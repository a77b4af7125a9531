"""How long the ranks of a world stand still for an exchange of tensors, by bytes.

As steps meet exchanges: many of them, each after a matrix product that has put the exchange's threads to sleep, and of a tensor that was
just written. One exchange by itself, the quickest of many, takes a quarter of that.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from megatron_mplug2.parallel.device import device, on_gpu
from megatron_mplug2.planner.rates import Curve, Exchange

SIZES = tuple(4**power for power in range(4, 14))
"""Bytes of exchanges, 256 to 67 M."""
SMALL = 1 << 21
"""Bytes below which a series is longer."""
LENGTHS, SERIES = (60, 4), 12
"""Exchanges of a series, of small tensors and of large ones; the quickest of so many series counts. As many as a small model's step has:
what they take differs so much that the mean of a few, quickest of many, would be luck."""
IN_TURN = 1 << 25
"""Bytes of tensors that take turns, as a step's do."""
PRODUCT = 256
"""Rows and columns of the matrices between exchanges."""


def measure_exchanges() -> dict[Exchange, Curve]:
    """On one rank of a world."""
    return {exchange: Curve(tuple((size, size / _exchange_seconds(exchange, size)) for size in SIZES)) for exchange in Exchange}


def _exchange_seconds(exchange: Exchange, size: int) -> float:
    """Of the quickest series."""
    run, exchanges = _exchange_of(exchange, max(1, size // 4 // dist.get_world_size()))
    tensors = [torch.zeros(size // 4, device=device()) for _ in range(max(1, min(LENGTHS[0], IN_TURN // size)))]
    length = LENGTHS[0] if size < SMALL else LENGTHS[1]
    return min(_series(run, tensors, length) for _ in range(SERIES)) / length / exchanges


def _exchange_of(exchange: Exchange, share: int) -> tuple[Callable[[torch.Tensor], Any], int]:
    """What makes it with a tensor of all ranks' shares, each of so many elements; and how many exchanges that is."""
    rank, part = dist.get_rank(), torch.zeros(share, device=device())
    used = share * dist.get_world_size()

    def message(whole: torch.Tensor) -> None:
        if rank < 2:
            (dist.send if rank == 0 else dist.recv)(whole, 1 - rank)
            (dist.recv if rank == 0 else dist.send)(whole, 1 - rank)

    made: dict[Exchange, tuple[Callable[[torch.Tensor], Any], int]] = {
        Exchange.ALL_REDUCE: (dist.all_reduce, 1),
        Exchange.REDUCE_SCATTER: (lambda whole: dist.reduce_scatter_tensor(part, whole[:used]), 1),
        Exchange.ALL_GATHER: (lambda whole: dist.all_gather_into_tensor(whole[:used], part), 1),
        Exchange.MESSAGE: (message, 2),
    }
    return made[exchange]


def _series(run: Callable[[torch.Tensor], Any], tensors: list[torch.Tensor], length: int) -> float:
    """Seconds that a rank stands still in it: its own ones are the products', and those of calls, which passes have among their work.

    On a GPU all seconds, without products.
    """
    matrix = torch.ones(PRODUCT, PRODUCT, device=device())
    dist.barrier()
    start, own = time.perf_counter(), time.thread_time()
    for number in range(length):
        tensor = tensors[number % len(tensors)]
        if not on_gpu():
            torch.mm(matrix, matrix)
            tensor.fill_(1.0)
        run(tensor)
    if on_gpu():
        torch.cuda.synchronize()
        return time.perf_counter() - start
    return time.perf_counter() - start - (time.thread_time() - own)
