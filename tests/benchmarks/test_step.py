"""The plain model that a step is measured against does the same work, and learns from it."""

import argparse
from pathlib import Path

import torch

from benchmarks.reference_model import ReferenceModel
from benchmarks.step import batch_of, config_of, counted
from megatron_mplug2.config.schema import Task
from megatron_mplug2.observability.efficiency import StepFlops

ASKED = argparse.Namespace(model="tiny", samples=2, frames=3)


def test_as_many_operations_as_ours(tmp_path: Path) -> None:
    """But of the first layer's gradient to the pixels, which neither needs, and of norms and the like, which nobody counts."""
    config = config_of(ASKED, tmp_path)
    ours = StepFlops(config).of(Task.VIDEO_TEXT, config.schedule[0])
    assert abs(counted(config) / ours - 1) < 0.03


def test_it_learns_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = config_of(ASKED, tmp_path)
    batch, model = batch_of(config), ReferenceModel(config.model)
    assert batch.media is not None
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(12):
        losses.append(model(batch.media.float() / 255, batch.instructions, batch.targets))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1].item() < 0.8 * losses[0].item()
