"""Initialisation that doesn't depend on the layout: every full, unsharded weight is drawn from a generator seeded by its name."""

import hashlib
import math

import torch

from megatron_mplug2.config.model import ModelConfig, VisionConfig
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology


def initialise(weights: list[Weight], config: ModelConfig, temperature: float, seed: int, topology: Topology) -> None:
    """Fills every weight in place with this rank's part of its full value."""
    for weight in weights:
        full = initial_value(weight.name, weight.full_size, config, temperature, seed)
        weight.load_full(full, topology)


def initial_value(name: str, size: tuple[int, ...], config: ModelConfig, temperature: float, seed: int) -> torch.Tensor:
    """A full weight in released mPLUG-2's and CLIP's initial distributions, by its canonical name."""
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
    if kind == "bias":
        return torch.zeros(size)
    std = _clip_std(name, config.vision) if name.startswith(("vision.embedding.", "vision.blocks.")) else config.init_std
    return torch.randn(size, generator=generator) * std


def _clip_std(name: str, vision: VisionConfig) -> float:
    """Of CLIP's `initialize_parameters`: narrower where a residual branch ends, the more blocks there are."""
    width = vision.width**-0.5
    if name.endswith(("attention.linear_proj.weight", "mlp.linear_fc2.weight")):
        return width * (2 * vision.blocks) ** -0.5
    if name.endswith("mlp.linear_fc1.weight"):
        return (2 * vision.width) ** -0.5
    if name.endswith("embedding.patch"):
        return (3 * 3 * vision.patch**2) ** -0.5  # PyTorch's default of a convolution: there uniform, with this deviation
    return width


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
