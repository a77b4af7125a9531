"""Whether a run fits into this machine's GPUs, found out before its ranks start."""

import os
import subprocess

import torch

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.memory_fit import GB, check_memory, most_loaded

MIB = 2**20
TIMEOUT_S = 20.0
DOUBT = 1.15
"""The estimate may be too high by so much (1.13 with all but the heads frozen): what is refused here cannot be tried all the same."""


def check_gpu_memory(config: RunConfig) -> None:
    """Raises UserError, of one line, where a rank's tensors alone surely need more than a GPU has. Without GPUs nothing is known, nor said.

    Asks the driver's tool: a process that has touched CUDA itself could not fork ranks.
    """
    if torch.cuda.device_count() == 0:
        return
    smallest = smallest_gpu_gb()
    if smallest is not None and most_loaded(config).total > DOUBT * smallest * GB:
        check_memory(config, round(smallest, 1), "a GPU of this machine")


def smallest_gpu_gb() -> float | None:
    """Memory of the least of the GPUs that CUDA may use, in 10^9 bytes; None where nvidia-smi is not there or does not know them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [] if visible is None else ["--id", visible]
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", *chosen]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout.split()
        return min(int(mebibytes) for mebibytes in said) * MIB / GB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
