"""Checks of `training.engine` against the rest of the config: what DeepSpeed does not do, or does wrongly without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_mplug2.config.schema import RunConfig


def engine_errors(run: RunConfig) -> Iterator[str]:
    """Sentences that name the dotted keys that don't fit."""
    from megatron_mplug2.config.layout import DeepSpeedConfig, EngineChoice
    from megatron_mplug2.config.training import Precision

    training, layout = run.training, run.layout
    if training.engine is not EngineChoice.DEEPSPEED:
        for name, default in DeepSpeedConfig():
            value = getattr(run.deepspeed, name)
            if value != default:
                yield f"deepspeed.{name}={str(value).lower()} needs training.engine=deepspeed"
        return
    if layout.pipeline > 1:
        yield f"layout.pipeline={layout.pipeline} needs training.engine=megatron: DeepSpeed trains one stage here"
    for name in ("sequence_parallel", "overlap_grad_reduce", "overlap_param_gather"):
        if getattr(layout, name):
            yield f"layout.{name}=true needs training.engine=megatron: it is Megatron-Core that does it"
    if training.precision is Precision.BF16 and run.deepspeed.zero_stage == 1:
        yield "training.precision=bf16 needs deepspeed.zero_stage=2 or 3: at stage 1 DeepSpeed takes another optimizer, of another form"
    if training.ema:
        yield f"training.ema={training.ema:g} needs training.engine=megatron: averages follow its weights"
    if run.objectives.vlc.queued:
        yield "objectives.vlc.negatives=queue needs training.engine=megatron: momentum encoders follow its weights"
