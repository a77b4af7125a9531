"""Checks of the families whose boxes or captions need more than the others: what they cannot be trained with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_mplug2.config.downstream import Family
    from megatron_mplug2.config.schema import RunConfig


def grounding_errors(run: RunConfig, family: Family) -> Iterator[str]:
    from megatron_mplug2.config.downstream import FamilyKind

    if family.kind is not FamilyKind.GROUNDING:
        return
    resolution = max(phase.resolution for phase in run.schedule)
    needed = 4 * len(str(resolution)) + 2
    if run.data.target_length < needed:
        yield f"data.target_length={run.data.target_length} must be {needed} or more: four numbers up to {resolution}, [CLS] and [SEP]"
    if len({phase.resolution for phase in run.schedule}) > 1:
        yield f"schedule has several resolutions: downstream.family={family} counts its boxes in pixels of one"
    if run.data.randaugment.operations:
        yield f"data.randaugment.operations={run.data.randaugment.operations} moves what boxes stand around: set it to 0"


def caption_loss_errors(run: RunConfig, family: Family) -> Iterator[str]:
    from megatron_mplug2.config.downstream import CaptionLoss, FamilyKind
    from megatron_mplug2.config.objectives import Averaging

    if run.downstream is None or run.downstream.caption_loss is CaptionLoss.LIKELIHOOD:
        return
    if family.kind is not FamilyKind.CAPTION:
        yield f"downstream.caption_loss=cider: downstream.family={family} has no captions; leave it out"
    if run.objectives.lm.averaging is not Averaging.SUM:
        yield "downstream.caption_loss=cider weighs the likelihood of whole captions: set objectives.lm.averaging=sum"
    for key, value in (("objectives.lm.label_smoothing", run.objectives.lm.label_smoothing), ("training.ema", run.training.ema)):
        if value:
            yield f"{key}={value:g}: downstream.caption_loss=cider draws captions from what it trains; set it to 0"
    if run.training.spike_factor:
        yield (
            f"training.spike_factor={run.training.spike_factor:g}: the loss of downstream.caption_loss=cider lies around zero, where any "
            "step would be a spike; set it to 0"
        )
    if run.layout.pipeline > 1:
        yield f"layout.pipeline={run.layout.pipeline}: downstream.caption_loss=cider needs 1, where the model can speak"
