"""This machine's profile for the planner: how quickly its ranks do each kind of work, by how many of them are at work.

    mplug2 bench calibrate --out machine.json && mplug2 plan --model base --gpus 2 --gpu machine.json

A rank is a core with one thread, or a GPU. Each figure is of the quickest of many runs, so that what else the machine does counts little.

1. Matrix products and attention, forward and backward, by size.
2. What is left of a whole model's passes and updates when those are taken away: bytes of elementwise work, launches, memory. They come
   from models of two widths, neither of which `benchmarks.planner` predicts.
3. The same of two ranks between which tensor parallelism splits the layers, without and with sequence parallelism: what they compute
   beside products is not what whole layers do. Not on GPUs, where a rank's own work can't be told from its waits: split layers count as
   whole ones.
4. Exchanges between ranks, by bytes.
"""

import psutil
import torch

from benchmarks.exchange_speed import measure_exchanges
from benchmarks.explained import rates_of
from benchmarks.pass_speed import SAMPLES, Layers, mean_passes, measure_passes, precision, widths
from benchmarks.rank_speed import Kernels, mean_kernels, measure_kernels
from benchmarks.ranks import run_ranks, usable_ranks
from benchmarks.record import write
from launchers.sweep.hosts import processor
from megatron_mplug2.parallel.device import on_gpu
from megatron_mplug2.planner.profile import Profile, profile_tree
from megatron_mplug2.planner.rates import Measured, Rates


def main() -> None:
    case = {"models": widths(), "samples": SAMPLES, "load_before": psutil.getloadavg()[0]}
    profile = measured_profile()
    for count, rates in profile.measured.rates.items():
        print(f"{count} at work: {_told(rates)}")
    print(f"written to {write('calibrate', 'mplug2 bench calibrate', case, profile_tree(profile))}")


def measured_profile() -> Profile:
    """Of as many ranks as there are cores or GPUs, and of 1, 2, 4, ... fewer. Takes a minute and a half on two cores."""
    ranks = usable_ranks()
    counts = sorted({1, ranks, *(2**power for power in range(1, ranks.bit_length()) if 2**power < ranks)})
    together = [] if on_gpu() else [count for count in counts if count > 1]
    kernels = {count: mean_kernels(run_ranks(count, measure_kernels, world=1)) for count in counts}
    return Profile(
        name=torch.cuda.get_device_name() if on_gpu() else f"cores of {processor()}",
        precision=precision(),
        memory=float(torch.cuda.get_device_properties(0).total_memory if on_gpu() else psutil.virtual_memory().total / ranks),
        measured=Measured(
            rates={count: _rates(count, kernels[count], Layers.WHOLE) for count in counts},
            split={count: _rates(count, kernels[count], Layers.SPLIT) for count in together},
            sequence={count: _rates(count, kernels[count], Layers.SEQUENCE) for count in together},
            exchanges={count: run_ranks(count, measure_exchanges)[0] for count in counts if count > 1},
        ),
    )


def _rates(count: int, kernels: Kernels, layers: Layers) -> Rates:
    """Of so many ranks at work, less one where pairs of them share layers and it is odd."""
    group = 1 if layers is Layers.WHOLE else 2
    return rates_of(kernels, mean_passes(run_ranks(count // group * group, measure_passes, layers, world=group)))


def _told(rates: Rates) -> str:
    best = max(rate for _, rate in rates.forward.products.points)
    return (
        f"products {best / 1e9:.1f} GFLOP/s, elementwise {rates.forward.elementwise / 1e9:.2f} GB/s, "
        f"launch {1e6 * rates.forward.launch:.0f} us, memory {rates.memory / 1e9:.2f} GB/s"
    )


if __name__ == "__main__":
    main()
