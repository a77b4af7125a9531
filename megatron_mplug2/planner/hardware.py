"""GPUs and the links between them, as their makers describe them, and what programs are taken to reach of that."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.errors import UserError
from megatron_mplug2.planner.rates import Measured, PassRates, Rates, level

GB = 1e9
"""Bytes; a link's bits are divided by 8."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """What joins GPUs: one GPU's share of it."""

    name: str
    bandwidth: float
    """Bytes a second in one direction, at most."""
    latency: float
    """Seconds that one hop of a ring takes beside its bytes."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """What training reaches of a data sheet's figures."""

    compute: float
    """Of the peak, in forward and backward passes on one GPU, norms and other elementwise work in their time."""
    memory: float
    """Of the memory's bandwidth, in the optimizer and in gradient buffers."""
    source: str


ASSUMED = Efficiency(
    compute=0.5,  # the best published models reach 41 to 48 % with all communication (Megatron-LM's README)
    memory=0.9,  # an H200 measured elsewhere copies at 4.3 of 4.8 TB/s
    source="an assumption, the same for every size of microbatch and of the parts that tensor parallelism leaves",
)

MEASURED_H200 = Efficiency(
    compute=0.37,  # 175.8 TFLOP in 481 ms: forward and backward of all objectives on 32 clips of 8 frames, large, bf16
    memory=0.9,
    source="measured on one H200 with all objectives on clips (`benchmarks/NOTES.md`), the same for every size of microbatch and of the "
    "parts that tensor parallelism leaves",
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device, and how it is joined to those of its node and of other nodes."""

    name: str
    peak: Mapping[Precision, float]
    """Operations a second: bf16 with tensor cores, dense; fp32 without."""
    memory: float
    """Bytes."""
    memory_bandwidth: float
    """Bytes a second."""
    inside: Link
    """To the GPUs of its node."""
    outside: Link
    """To other nodes: one network port a GPU, as in NVIDIA's DGX systems."""
    efficiency: Efficiency
    measured: Measured | None = None
    """What counts in place of bandwidths and shares of them, where `mplug2 bench calibrate` has measured it."""

    def rates(self, precision: Precision, ranks: int, layout: LayoutConfig) -> Rates:
        """Of each of so many ranks that work at once.

        Raises UserError where the profile does not say: another precision, or more ranks than were measured.
        """
        if precision not in self.peak:
            known = ", ".join(self.peak)
            raise UserError(f"{self.name} was measured in {known}, the config has training.precision={precision}: set it, or measure anew")
        if self.measured is not None:
            return _measured(self.name, self.measured.rates_of(layout), ranks)
        speed = level(self.efficiency.compute * self.peak[precision])
        either = PassRates(products=speed, attention=speed, elementwise=math.inf, launch=0.0)
        return Rates(forward=either, backward=either, memory=self.efficiency.memory * self.memory_bandwidth, tensor=0.0)


def _measured(name: str, rates: Mapping[int, Rates], ranks: int) -> Rates:
    known = sorted(rates)
    if ranks > known[-1]:
        raise UserError(f"{name} was measured with up to {known[-1]} ranks at work, not with {ranks}: ask for fewer, it has no more cores")
    return rates[next(count for count in known if count >= ranks)]


RING_LATENCY = 8.4e-6
"""Seconds that any collective takes at least. NCCL's own model of itself: src/graph/tuning.cc, `baseLat`, ring, Simple."""
NVLINK_HOP = 3.4e-6
"""The same file, `hwLat`, NVLINK, ring, Simple."""
NETWORK_HOP = 9.6e-6
"""The same file, `hwLat`, NET, ring, Simple."""

# Data sheets give both directions together.
NVLINK_3 = Link(name="NVLink 3", bandwidth=300 * GB, latency=NVLINK_HOP)  # 600 GB/s: NVIDIA A100 data sheet
NVLINK_4 = Link(name="NVLink 4", bandwidth=450 * GB, latency=NVLINK_HOP)  # 900 GB/s: NVIDIA H100 and H200 data sheets
NVLINK_5 = Link(name="NVLink 5", bandwidth=900 * GB, latency=NVLINK_HOP)  # 1.8 TB/s: NVIDIA DGX B200 data sheet

HDR = Link(name="InfiniBand HDR", bandwidth=25 * GB, latency=NETWORK_HOP)  # 200 Gb/s, 8 a node: NVIDIA DGX A100 data sheet
NDR = Link(name="InfiniBand NDR", bandwidth=50 * GB, latency=NETWORK_HOP)  # 400 Gb/s, 8 a node: DGX H100, H200 and B200 data sheets

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(  # NVIDIA A100 80GB data sheet, SXM
            name="A100",
            peak={Precision.BF16: 312e12, Precision.FP32: 19.5e12},
            memory=80 * GB,
            memory_bandwidth=2039 * GB,
            inside=NVLINK_3,
            outside=HDR,
            efficiency=ASSUMED,
        ),
        Gpu(  # NVIDIA H100 data sheet, SXM; its 1,979 TFLOP/s in bf16 are with sparsity
            name="H100",
            peak={Precision.BF16: 989e12, Precision.FP32: 67e12},
            memory=80 * GB,
            memory_bandwidth=3350 * GB,
            inside=NVLINK_4,
            outside=NDR,
            efficiency=ASSUMED,
        ),
        Gpu(  # NVIDIA H200 data sheet, SXM: H100's chip with more and quicker memory
            name="H200",
            peak={Precision.BF16: 989e12, Precision.FP32: 67e12},
            memory=141 * GB,
            memory_bandwidth=4800 * GB,
            inside=NVLINK_4,
            outside=NDR,
            efficiency=MEASURED_H200,
        ),
        Gpu(  # NVIDIA DGX B200 data sheet, an eighth of the system: 1,440 GB, 64 TB/s; HGX B200: 2.25 PFLOP/s dense, 75 in fp32
            name="B200",
            peak={Precision.BF16: 2250e12, Precision.FP32: 75e12},
            memory=180 * GB,
            memory_bandwidth=8000 * GB,
            inside=NVLINK_5,
            outside=NDR,
            efficiency=ASSUMED,
        ),
    )
}


def known_gpu(name: str) -> Gpu:
    """A GPU of `GPUS`, in any case of letters. Raises UserError for another one."""
    found = GPUS.get(name.upper())
    if found is None:
        known = f"those that have are {', '.join(GPUS)}"
        raise UserError(f"--gpu {name} has no profile of its links and memory, {known}: name one of them, or a file of `mplug2 bench`")
    return found


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal GPUs in equal nodes."""

    gpu: Gpu
    gpus: int
    node: int
    """GPUs of a node."""

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.node)

    def rates(self, config: RunConfig) -> Rates:
        """Of each GPU, while all work at the config. Raises UserError where the GPU's profile does not say."""
        return self.gpu.rates(config.training.precision, self.gpus, config.layout)
