"""Dropout whose masks are a pure function of (seed, step, microbatch, block), so that a second pass, a recompute or a resume replays them.

Every draw seeds the device's generator anew from its key: nothing is saved or restored, and nothing depends on the pipeline or
data-parallel layout. Where a tensor is sharded over tensor-parallel ranks the rank is part of the key; where it is replicated it isn't.
"""

import hashlib
from collections.abc import Sequence
from math import prod

import torch
from torch.nn import functional as F

from megatron_mplug2.parallel.device import on_gpu
from megatron_mplug2.parallel.topology import Topology

LEVELS = 1 << 16
"""Of a probability on a CPU: sixteen bits decide on an element."""


class KeyedDropout:
    """Shared by all modules of a stage; `start` is called before each block."""

    def __init__(self, seed: int, topology: Topology) -> None:
        self._seed = seed
        self._topology = topology
        self._key: tuple[int, int, str] | None = None
        self._draws = 0

    def start(self, step: int, microbatch: int, block: str) -> None:
        """Begins the draws of a block; `microbatch` is its index in the global batch."""
        self._key = (step, microbatch, block)
        self._draws = 0

    def stop(self) -> None:
        """No dropout until the next `start` (evaluation)."""
        self._key = None

    @property
    def active(self) -> bool:
        return self._key is not None

    def seed_draw(self, *, sharded: bool) -> None:
        """Seeds the device's generator for one draw of a tensor that is sharded over tensor-parallel ranks, or equal on them."""
        rank = self._topology.tensor_rank if sharded and self._topology.tensor_size > 1 else -1
        text = f"{self._seed}/{self._key}/{self._draws}/{rank}"
        self._draws += 1
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
        # The one generator that draws here: torch.manual_seed looks for every kind of device, which takes a millisecond.
        _generator().manual_seed(seed)

    def hidden(self, x: torch.Tensor, probability: float) -> torch.Tensor:
        """Dropout on [s, b, h], which sequence parallelism shards."""
        if probability == 0.0 or not self.active:
            return x
        self.seed_draw(sharded=self._topology.sequence_parallel)
        if on_gpu():
            return F.dropout(x, probability)
        kept, grown = draw_kept(x.shape, probability)
        return x * kept.to(x.dtype).mul_(grown)

    def path(self, branch: torch.Tensor, probability: float, samples: int) -> torch.Tensor:
        """Drop path on [s, samples * t, h]: the whole branch of a sample, equal on all tensor-parallel ranks."""
        if probability == 0.0 or not self.active:
            return branch
        self.seed_draw(sharded=False)
        keep = torch.rand(samples, device=branch.device) >= probability
        scale = keep.to(branch.dtype) / (1.0 - probability)
        return branch * scale.repeat_interleave(branch.shape[1] // samples)[None, :, None]


def draw_kept(size: Sequence[int], probability: float) -> tuple[torch.Tensor, float]:
    """What dropout keeps, bool, and the factor that makes up for the rest; on a CPU, from its generator.

    A number of 64 bits is drawn for four elements. Torch's `bernoulli_` draws one for each and takes five times as long.
    """
    elements, dropped = prod(size), min(round(probability * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-elements // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[:elements].view(tuple(size)) >= dropped - LEVELS // 2
    return kept, LEVELS / (LEVELS - dropped)


def _generator() -> torch.Generator:
    return torch.cuda.default_generators[torch.cuda.current_device()] if on_gpu() else torch.default_generator
