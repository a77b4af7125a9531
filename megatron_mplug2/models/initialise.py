"""Initialisation that doesn't depend on the layout: every full, unsharded weight is drawn from a generator seeded by its name."""

import hashlib
import math

import torch

from megatron_mplug2.config.schema import ModelConfig
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology


def initialise(weights: list[Weight], config: ModelConfig, temperature: float, seed: int, topology: Topology) -> None:
    """Fills every weight in place with this rank's part of its full value."""
    for weight in weights:
        full = _full_value(weight.name, weight.full_size, config, temperature, seed)
        weight.load_full(full, topology)


def _full_value(name: str, size: tuple[int, ...], config: ModelConfig, temperature: float, seed: int) -> torch.Tensor:
    """Released mPLUG-2's and CLIP's initial distributions, by the weight's name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    kind = name.rsplit(".", 1)[-1]
    if name.endswith("log_temperature"):
        return torch.tensor(math.log(temperature))
    if "norm." in name:
        return torch.ones(size) if kind == "weight" else torch.zeros(size)
    if name.endswith("queries"):
        return torch.randn(size, generator=generator)  # [CODE] N(0, 1)
    if ".temporal." in name:
        return _temporal_value(name, size, generator)
    if kind in ("class_token", "position") and name.startswith("vision."):
        return torch.randn(size, generator=generator) * config.vision.width**-0.5  # CLIP
    if kind == "bias":
        return torch.zeros(size)
    return torch.randn(size, generator=generator) * config.init_std


def _temporal_value(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """[CODE] The up-projection starts at zero, so that the block starts as plain CLIP; the rest has PyTorch's default of a convolution."""
    if ".up." in name:
        return torch.zeros(size)
    if name.endswith(("taps", "taps_bias")):
        bound = 1 / math.sqrt(3)
    elif name.endswith("down.weight"):
        bound = 1 / math.sqrt(size[1])
    else:
        bound = 1 / math.sqrt(2 * size[0])
    return (torch.rand(size, generator=generator) * 2 - 1) * bound
