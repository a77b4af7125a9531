"""The same numbers each time on the same GPUs, at the price of speed."""

import os

import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def be_deterministic() -> None:
    """From here on torch takes deterministic kernels only, in this process; an operation that has none raises RuntimeError.

    Call before the first matrix product: cuBLAS reads its setting when its handle is made. What the CPU computes with a fixed number
    of threads is deterministic anyway.
    """
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")  # of NVIDIA's cuBLAS manual, "Results Reproducibility"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it picks by measured time
