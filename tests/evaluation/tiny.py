"""A tiny random model on any layout of one pipeline stage, and inputs for it."""

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.initialise import initialise
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.weights import named_weights
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import StageRoles, make_topology

VOCAB = 211
CLS, SEP, PAD = 2, 3, 0
TEXT = TextConfig(hidden=32, heads=2, ffn=64, layers=4, queries=5, vocab_size=VOCAB, positions=32)
CONFIG = ModelConfig(
    vision=VisionConfig(width=48, blocks=2, heads=2, ffn=96, patch=8, resolution=16),
    text=TEXT,
    fusion_layers=2,
    decoder_layers=2,
    contrastive_width=16,
    init_std=0.2,  # so that a random model prefers some tokens clearly
)


def make_inference(layout: LayoutConfig) -> Inference:
    """A random model whose temporal modules do something, though they start at zero."""
    topology = make_topology(layout, StageRoles(ties=((0, 0), (0, 0))))
    context = ModelContext(config=CONFIG, topology=topology, dropout=KeyedDropout(0, topology))
    stage = Stage(chain(CONFIG), context)
    weights = named_weights(stage, topology)
    initialise(weights, CONFIG, 0.07, 0, topology)
    for weight in weights:
        if ".up.weight" in weight.name:
            full = torch.randn(weight.full_size, generator=torch.Generator().manual_seed(1)) * 0.2
            weight.load_full(full, topology)
    return Inference(stage, context)


def layouts() -> list[LayoutConfig]:
    return [LayoutConfig(tensor=2), LayoutConfig(tensor=2, sequence_parallel=True)]


def some_media(count: int, frames: int = 3) -> torch.Tensor:
    """[count, 3, frames, 16, 16]; a sample is a function of its place alone."""
    shape = (3, frames, CONFIG.vision.resolution, CONFIG.vision.resolution)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(index)) for index in range(count)])


def some_texts(count: int, length: int = 9, seed: int = 0) -> torch.Tensor:
    """[count, length] of different numbers of tokens, padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, VOCAB, (count, length), generator=generator)
    lengths = torch.randint(3, length + 1, (count, 1), generator=generator)
    tokens[torch.arange(length) >= lengths] = PAD
    tokens[:, 0] = CLS
    return tokens


def task_of(frames: int) -> Task:
    return Task.VIDEO_TEXT if frames > 1 else Task.IMAGE_TEXT
