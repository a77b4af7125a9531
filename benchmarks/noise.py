"""Microbatches of noise in the shapes of a run's: full-length random tokens, random pixels."""

import torch

from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import IGNORED, Batch, PairBatch, TextBatch
from megatron_mplug2.models.shapes import BatchShape, batch_shape
from megatron_mplug2.training.step import StepWork


def noise_batch(config: RunConfig, shape: BatchShape, first: int = 0) -> Batch:
    """`first`: the number of its first sample; no two mean the same."""

    def draw(rows: int, length: int) -> torch.Tensor:
        return torch.randint(1, config.model.text.vocab_size, (rows, length))

    samples, targets, ids = shape.samples, draw(shape.decoder_rows, shape.target_length), torch.arange(first, first + shape.samples)
    if shape.task is Task.TEXT:
        tokens = draw(samples, shape.text_length)
        asked = torch.rand(tokens.shape) < config.objectives.mlm.probability
        labels = torch.where(asked, tokens, IGNORED)
        return TextBatch(masked=tokens, labels=labels, prefix=tokens, targets=targets, sample_ids=ids)
    side = round(shape.patches**0.5) * config.model.vision.patch
    return PairBatch(
        task=shape.task,
        media=torch.randint(256, (samples, 3, shape.frames, side, side), dtype=torch.uint8),
        captions=draw(samples, shape.text_length),
        instructions=draw(shape.decoder_rows, shape.text_length),
        targets=targets,
        media_ids=ids,
        meaning_ids=ids,
        sample_ids=ids,
    )


def noise_work(config: RunConfig, task: Task, step: int, data_rank: int) -> StepWork:
    """A data-parallel rank's microbatches of a step in the config's last phase."""
    phase: PhaseConfig = config.schedule[-1]
    samples = config.training.microbatch
    shape = batch_shape(config, task, samples=samples, frames=phase.frames, resolution=phase.resolution)
    torch.manual_seed(step * config.layout.data + data_rank)
    firsts = [(number * config.layout.data + data_rank) * samples for number in range(config.microbatches)]
    return StepWork(step=step, task=task, phase=phase, batches=[noise_batch(config, shape, first) for first in firsts])
