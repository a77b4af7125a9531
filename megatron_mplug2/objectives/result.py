"""The names of what is trained."""

from enum import StrEnum


class Objective(StrEnum):
    """The four pretraining objectives."""

    MLM = "mlm"
    """Masked language modelling."""
    VLC = "vlc"
    """Vision-language contrast."""
    VLM = "vlm"
    """Vision-language matching."""
    LM = "lm"
    """Instruction-based language modelling."""
