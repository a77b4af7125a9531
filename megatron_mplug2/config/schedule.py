"""Which tasks a run's steps are about, stretch by stretch."""

from enum import StrEnum

from pydantic import Field

from megatron_mplug2.config.node import Frozen


class Task(StrEnum):
    """What one training step is about; every rank does the same task in the same step."""

    TEXT = "text"
    IMAGE_TEXT = "image_text"
    VIDEO_TEXT = "video_text"


class PhaseConfig(Frozen):
    """A stretch of training with one mixture, frame count and resolution."""

    steps: int = Field(gt=0)
    text: float = Field(default=0.0, ge=0)
    """Share of the steps on this stream, relative to the other two."""
    image_text: float = Field(default=0.0, ge=0)
    video_text: float = Field(default=0.0, ge=0)
    frames: int = Field(default=4, gt=0)
    """Frames sampled from a clip."""
    resolution: int = Field(default=224, gt=0)
    """Side of pictures and frames in pixels, a multiple of the patch."""

    def share(self, task: Task) -> float:
        share: float = getattr(self, task.value)
        return share
