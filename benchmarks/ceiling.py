"""What this machine can do at best: matrix products by dtype, copying in memory, and an all-reduce between two processes.

    python -m benchmarks.ceiling

Each figure is the best of its sizes, and each size the median of its repetitions, so that one lucky run is no ceiling.
"""

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.record import write
from megatron_mplug2.models.cpu_functions import product
from megatron_mplug2.models.kernels import has_onednn
from megatron_mplug2.parallel.device import backend, on_gpu

REPEATS = 9
PRODUCTS = ((1024, 1024, 1024), (1576, 768, 3072), (2048, 2048, 2048), (4096, 4096, 4096))
"""Rows, inner, columns; the second is an FFN of the base model on two clips of four frames."""
COPIED = 1 << 28
"""Bytes, beyond any cache."""
REDUCED = 1 << 26
"""Bytes."""
TORCH_MM, ONEDNN = "torch.mm", "oneDNN"
GPU_SCALE = 4
"""Sides of products are so many times longer there."""


def product_tflops(dtype: torch.dtype) -> dict[str, float]:
    """Rate of the fastest of `PRODUCTS`, in TFLOP/s: of `torch.mm`, and of oneDNN where that takes MKL's kernels, in fp32 on a CPU."""
    rates = {TORCH_MM: max(_product_rate(dtype, size, _by_torch) for size in PRODUCTS)}
    if dtype is torch.float32 and not on_gpu() and has_onednn():
        rates[ONEDNN] = max(_product_rate(dtype, size, _by_onednn) for size in PRODUCTS)
    return rates


Product = Callable[[torch.Tensor, torch.Tensor], Callable[[], Any]]
"""Of [rows, inner] and [inner, columns], ready to be made again and again."""


def _by_torch(left: torch.Tensor, right: torch.Tensor) -> Callable[[], Any]:
    out = left.new_empty(len(left), right.shape[1])
    return lambda: torch.mm(left, right, out=out)


def _by_onednn(left: torch.Tensor, right: torch.Tensor) -> Callable[[], Any]:
    weight = right.t().contiguous()
    return lambda: product(left, weight)


def _product_rate(dtype: torch.dtype, size: tuple[int, int, int], by: Product) -> float:
    rows, inner, columns = (side * (GPU_SCALE if on_gpu() else 1) for side in size)
    place = torch.device("cuda" if on_gpu() else "cpu")
    left, right = torch.randn(rows, inner, device=place, dtype=dtype), torch.randn(inner, columns, device=place, dtype=dtype)
    return 2e-12 * rows * inner * columns / _median(by(left, right))


def copy_gb_s() -> float:
    """Bytes read and written by a copy, in GB/s."""
    place = torch.device("cuda" if on_gpu() else "cpu")
    source = torch.zeros(COPIED, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    return 2e-9 * COPIED / _median(lambda: target.copy_(source))


def _median(work: Callable[[], Any]) -> float:
    """Seconds of a run, of `REPEATS` after two that warm up."""
    seconds = []
    for number in range(2 + REPEATS):
        start = time.perf_counter()
        work()
        if on_gpu():
            torch.cuda.synchronize()
        if number >= 2:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def all_reduce_gb_s() -> float:
    """Bytes of the tensor over the seconds that two processes of this machine take, in GB/s. One thread each, gloo on a CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = multiprocessing.get_context("spawn").SimpleQueue()
    spawn(_reducing, args=(port, found), nprocs=2)
    rate: float = found.get()
    return rate


def _reducing(rank: int, port: int, found: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    tensor = torch.zeros(REDUCED // 4)
    seconds = _median(lambda: dist.all_reduce(tensor))
    if rank == 0:
        found.put(1e-9 * REDUCED / seconds)
    dist.destroy_process_group()


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    figures: dict[str, Any] = {
        "product_tflops": {
            str(dtype).removeprefix("torch."): {library: round(rate, 4) for library, rate in product_tflops(dtype).items()}
            for dtype in (torch.float32, torch.bfloat16)
        },
        "copy_gb_s": round(copy_gb_s(), 2),
        "all_reduce_gb_s": round(all_reduce_gb_s(), 3),
    }
    case = {"products": PRODUCTS, "copied_bytes": COPIED, "reduced_bytes": REDUCED, "repeats": REPEATS, "backend": backend()}
    for name, value in figures.items():
        print(f"{name:>18}  {value}")
    print(f"written to {write('ceiling', 'python -m benchmarks.ceiling', case, figures)}")


if __name__ == "__main__":
    main()
