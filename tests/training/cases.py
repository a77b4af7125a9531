"""A small model with every module, ragged batches, and conditions under which an equality test cannot pass by luck."""

import zlib
from collections.abc import Collection
from pathlib import Path

import torch

from megatron_mplug2.config.data import DataConfig, DatasetConfig, SplitConfig
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block, ModelConfig, Module, TextConfig, VisionConfig
from megatron_mplug2.config.objectives import LMConfig, ObjectivesConfig, VLCConfig, VLMConfig
from megatron_mplug2.config.optimizer import OptimizerConfig
from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision, TrainingConfig
from megatron_mplug2.data.batch import IGNORED, Batch, PairBatch, TextBatch
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training.step import StepWork

GLOBAL_BATCH = 16
GROUP = 2
INSTRUCTIONS = 2
VOCAB = 59
PHASE = PhaseConfig(steps=40, text=1, image_text=1, video_text=1, frames=3, resolution=16)
MODEL = ModelConfig(
    vision=VisionConfig(width=32, blocks=3, heads=4, ffn=64, patch=8, resolution=16),
    text=TextConfig(
        hidden=48, heads=4, ffn=64, layers=3, universal_layers=2, queries=5, vocab_size=VOCAB, positions=16, dropout=0, attention_dropout=0
    ),
    fusion_layers=2,
    decoder_layers=2,
    contrastive_width=16,
)


VLC = VLCConfig(chunk=3, weight=0.7)


def config(
    layout: LayoutConfig,
    *,
    microbatch: int = GLOBAL_BATCH,
    model: ModelConfig = MODEL,
    recompute: tuple[Block, ...] = (),
    vlc: VLCConfig = VLC,
    frozen: tuple[Module, ...] = (),
    precision: Precision = Precision.FP32,
) -> RunConfig:
    """Clipping is active, and Adam's eps so large that gradients of rounding size (key biases) don't move weights."""
    text, images, clips = ((DatasetConfig(folder=task.value),) for task in Task)
    folders = SplitConfig(text=text, image_text=images, video_text=clips)
    return RunConfig(
        name="case",
        run_dir=Path("runs/case"),
        model=model,
        data=DataConfig(vocab=Path("vocab.txt"), train=folders, text_length=7, document_length=9, target_length=6),
        schedule=(PHASE,),
        training=TrainingConfig(global_batch=GLOBAL_BATCH, microbatch=microbatch, recompute=recompute, frozen=frozen, precision=precision),
        objectives=ObjectivesConfig(vlc=vlc, vlm=VLMConfig(group=GROUP, weight=1.3), lm=LMConfig(instructions=INSTRUCTIONS, weight=2.0)),
        optimizer=OptimizerConfig(lr=2e-2, min_lr=1e-3, warmup_steps=2, weight_decay=0.1, eps=1e-3, clip_norm=0.5),
        layout=layout,
    )


def only(config: RunConfig, weighted: Collection[str]) -> RunConfig:
    """With no weight on objectives other than these."""
    objectives = config.objectives
    for name in {"mlm", "vlc", "vlm", "lm"}.difference(weighted):
        objectives = objectives.model_copy(update={name: getattr(objectives, name).model_copy(update={"weight": 0.0})})
    return config.model_copy(update={"objectives": objectives})


def work(config: RunConfig, step: int, task: Task, data_rank: int, data_size: int) -> StepWork:
    """The rank's microbatches of a step of the case; all ranks' together are the global batch whatever the layout."""
    size = config.training.microbatch
    whole = text_batch(step) if task is Task.TEXT else pair_batch(step, task)
    batches = []
    for number in range(config.microbatches):
        start = (number * data_size + data_rank) * size
        batches.append(rows(whole, start, start + size))
    return StepWork(step=step, task=task, phase=PHASE, batches=batches)


def randomise(weights: list[Weight], topology: Topology) -> None:
    """Noise on every weight, drawn by its name: none stays zero (up-projections, biases) or one (norms)."""
    for weight in weights:
        if weight.name != LOG_TEMPERATURE:
            generator = torch.Generator().manual_seed(zlib.crc32(weight.name.encode()))
            full = torch.randn(weight.full_size, generator=generator) * 0.1 + ("norm.weight" in weight.name)
            weight.load_full(full, topology)


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Samples start..stop of a batch."""
    if isinstance(batch, TextBatch):
        return TextBatch(**{name: getattr(batch, name)[start:stop] for name in ("masked", "labels", "prefix", "targets", "sample_ids")})
    wide = slice(start * INSTRUCTIONS, stop * INSTRUCTIONS)
    assert batch.media is not None
    return PairBatch(
        task=batch.task,
        media=batch.media[start:stop],
        captions=batch.captions[start:stop],
        instructions=batch.instructions[wide],
        targets=batch.targets[wide],
        media_ids=batch.media_ids[start:stop],
        meaning_ids=batch.meaning_ids[start:stop],
        sample_ids=batch.sample_ids[start:stop],
    )


def ragged(generator: torch.Generator, count: int, length: int, shortest: int = 2) -> torch.Tensor:
    """[count, length] tokens of unequal numbers, padded with 0."""
    tokens = torch.randint(5, VOCAB, (count, length), generator=generator)
    lengths = torch.randint(shortest, length + 1, (count, 1), generator=generator)
    return torch.where(torch.arange(length) < lengths, tokens, 0)


def text_batch(step: int) -> TextBatch:
    """Unequal numbers of masked tokens; in even steps none in the first half (all of data rank 0's, or whole microbatches)."""
    generator = torch.Generator().manual_seed(1000 + step)
    documents = ragged(generator, GLOBAL_BATCH, 9, shortest=3)
    chosen = (torch.rand(documents.shape, generator=generator) < 0.3) & (documents != 0)
    chosen[: GLOBAL_BATCH // 2 if step % 2 == 0 else 2] = False
    chosen[GLOBAL_BATCH // 2 :, 1] = True
    return TextBatch(
        masked=documents.masked_fill(chosen, 4),
        labels=torch.where(chosen, documents, IGNORED),
        prefix=ragged(generator, GLOBAL_BATCH, 9),
        targets=ragged(generator, GLOBAL_BATCH, 6),
        sample_ids=torch.arange(GLOBAL_BATCH),
    )


def pair_batch(step: int, task: Task) -> PairBatch:
    """Two samples share a medium, two others a meaning; a group whose two samples mean the same has no negatives."""
    generator = torch.Generator().manual_seed(2000 + step)
    frames = PHASE.frames if task is Task.VIDEO_TEXT else 1
    media_ids, meaning_ids = torch.arange(GLOBAL_BATCH), torch.arange(100, 100 + GLOBAL_BATCH)
    media_ids[5] = media_ids[0]
    meaning_ids[14] = meaning_ids[3]
    meaning_ids[1 + 2 * (step % 2)] = meaning_ids[2 * (step % 2)]
    return PairBatch(
        task=task,
        media=torch.randn(GLOBAL_BATCH, 3, frames, 16, 16, generator=generator),
        captions=ragged(generator, GLOBAL_BATCH, 7),
        instructions=ragged(generator, GLOBAL_BATCH * INSTRUCTIONS, 7),
        targets=ragged(generator, GLOBAL_BATCH * INSTRUCTIONS, 6),
        media_ids=media_ids,
        meaning_ids=meaning_ids,
        sample_ids=torch.arange(GLOBAL_BATCH),
    )
