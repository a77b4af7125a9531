"""Finetuning: the training loop on one stream, with the objectives of a family, judged by the family's own figure too."""

from megatron_mplug2.config.downstream import CaptionLoss
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.downstream.drawn_captions import DrawnCaptions
from megatron_mplug2.downstream.measures import measure
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.training import loop


def finetune(config: RunConfig) -> ExitCode:
    """Trains to the end of the schedule or of `downstream.best.patience`. On every rank; raises as `training.loop.pretrain`."""
    if config.downstream is not None and config.downstream.caption_loss is CaptionLoss.CIDER:
        return loop.pretrain(config, measure, DrawnCaptions)
    return loop.pretrain(config, measure)
