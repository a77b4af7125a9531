"""What a training step is measured on: model, task, objectives and sizes, and batches of random pixels and tokens for them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.batch import IGNORED, Batch, PairBatch, TextBatch

CONFIGS = Path(__file__).parents[1] / "configs" / "pretrain"


class Losses(StrEnum):
    ALL = "all"
    """Of the task, as in pretraining: VLC, VLM and LM of pairs, MLM and LM of text."""
    CAPTION = "caption"
    """LM alone, one instruction a sample."""
    CONTRAST = "contrast"
    """VLC alone: vision encoder, text encoder, universal layers."""


OFF = {Losses.ALL: (), Losses.CAPTION: ("vlc", "vlm"), Losses.CONTRAST: ("vlm", "lm")}


@dataclass(frozen=True, kw_only=True)
class StepCase:
    task: Task
    samples: int
    """In one microbatch, which is the global batch."""
    losses: Losses = Losses.ALL
    model: str = "large"
    frames: int = 1
    tokens: int | None = None
    """Of captions, instructions and answers; None: as many as the model's config has."""

    @property
    def name(self) -> str:
        frames = f"_{self.frames}_frames" if self.task is Task.VIDEO_TEXT else ""
        return f"{self.model}_{self.task}{frames}_{self.losses}"


CPU_CASE = StepCase(model="base", task=Task.VIDEO_TEXT, losses=Losses.CAPTION, samples=2, frames=4, tokens=20)
GPU_CASES = (
    StepCase(task=Task.VIDEO_TEXT, losses=Losses.CAPTION, samples=8, frames=8),
    StepCase(task=Task.IMAGE_TEXT, samples=256, losses=Losses.CONTRAST),
    StepCase(task=Task.VIDEO_TEXT, samples=32, frames=8),
    StepCase(task=Task.IMAGE_TEXT, samples=192),
    StepCase(task=Task.VIDEO_TEXT, samples=64, frames=4),
    StepCase(task=Task.VIDEO_TEXT, samples=16, frames=16),
    StepCase(task=Task.TEXT, samples=128),
)
"""The first also by the plain model, beside which ours stays in memory: of 139 GB the plain one and its optimizer take about 20 and 5 to 8
a clip, ours as much and 3. All objectives at 8 frames take 115.5 GB."""


def config_of(case: StepCase, folder: Path, precision: Precision) -> RunConfig:
    name, resolution = {"tiny": ("demo", 32)}.get(case.model, (case.model, 224))
    lengths = [f"data.text_length={case.tokens}", f"data.target_length={case.tokens}"] if case.tokens else []
    return load_config(
        CONFIGS / f"{name}.yaml",
        [
            f"run_dir={folder}",
            *(f"objectives.{objective}.weight=0" for objective in OFF[case.losses]),
            f"schedule=[{{steps: 1, {case.task}: 1, frames: {case.frames}, resolution: {resolution}}}]",
            *lengths,
            f"training.global_batch={case.samples}",
            f"training.microbatch={case.samples}",
            f"training.precision={precision}",
            "training.recompute=none",
            f"objectives.vlm.group={case.samples}",
            *(["objectives.lm.instructions=1"] if case.losses is Losses.CAPTION else []),
            "optimizer.warmup_steps=0",
            "layout={tensor: 1, pipeline: 1, data: 1, sequence_parallel: false}",
        ],
    )


def batch_of(config: RunConfig) -> Batch:
    """Of the schedule's only task."""
    return _text_batch(config) if config.schedule[0].text else _pair_batch(config)


def _text_batch(config: RunConfig) -> TextBatch:
    samples, data = config.training.global_batch, config.data
    documents = random_tokens(config, samples, data.document_length)
    chosen = torch.rand(documents.shape, generator=torch.Generator().manual_seed(1)) < config.objectives.mlm.probability
    return TextBatch(
        masked=documents.masked_fill(chosen, 103),
        labels=torch.where(chosen, documents, IGNORED),
        prefix=random_tokens(config, samples, data.document_length),
        targets=random_tokens(config, samples, data.target_length),
        sample_ids=torch.arange(samples),
    )


def _pair_batch(config: RunConfig) -> PairBatch:
    samples, phase, data = config.training.global_batch, config.schedule[0], config.data
    asked = samples * config.objectives.lm.instructions
    task = Task.VIDEO_TEXT if phase.video_text else Task.IMAGE_TEXT
    shape = samples, 3, phase.frames if task is Task.VIDEO_TEXT else 1, phase.resolution, phase.resolution
    ids = torch.arange(samples)
    return PairBatch(
        task=task,
        media=torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
        captions=random_tokens(config, samples, data.text_length),
        instructions=random_tokens(config, asked, data.text_length),
        targets=random_tokens(config, asked, data.target_length),
        media_ids=ids,
        meaning_ids=ids,
        sample_ids=ids,
    )


def random_tokens(config: RunConfig, rows: int, length: int) -> torch.Tensor:
    return torch.randint(104, config.model.text.vocab_size, (rows, length), generator=torch.Generator().manual_seed(rows))
