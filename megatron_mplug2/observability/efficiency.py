"""Model FLOPs utilisation: the operations that the model asks for, over what the devices could do in the time."""

import torch

from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.workload import backward_parts
from megatron_mplug2.parallel.device import on_gpu

PEAKS = {
    "B200": (2250.0, 75.0),
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
}
"""Part of a GPU's name -> dense peak in TFLOP/s: bf16 with tensor cores, fp32 without. NVIDIA's data sheets; the first match counts."""


def peak_tflops(config: RunConfig) -> float | None:
    """Of one device: `training.peak_tflops`, else a known GPU's at the run's precision; None on a CPU and for an unknown GPU."""
    if config.training.peak_tflops is not None or not on_gpu():
        return config.training.peak_tflops
    return known_peak(torch.cuda.get_device_name(), config.training.precision)


def known_peak(name: str, precision: Precision) -> float | None:
    """TFLOP/s of a GPU by the name that CUDA gives it."""
    for part, (bf16, fp32) in PEAKS.items():
        if part in name:
            return bf16 if precision is Precision.BF16 else fp32
    return None


class StepFlops:
    """Operations of whole steps, by task and phase."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._known: dict[tuple[Task, PhaseConfig], int] = {}

    def of(self, task: Task, phase: PhaseConfig) -> int:
        """Forward and backward of the global batch, as far as frozen modules leave something to do. As MFU is defined, VLC's feature pass
        and recomputed activations don't count."""
        if (task, phase) not in self._known:
            config = self._config
            samples = config.training.global_batch
            shape = batch_shape(config, task, samples=samples, frames=phase.frames, resolution=phase.resolution)
            backward = backward_parts(config, task)
            self._known[task, phase] = sum(unit_flops(unit, shape, config) * (1 + backward[unit.name]) for unit in run_chain(config))
        return self._known[task, phase]
