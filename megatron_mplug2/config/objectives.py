"""What is learned, and how much each of it counts."""

from enum import StrEnum

from pydantic import Field

from megatron_mplug2.config.node import Frozen


class Averaging(StrEnum):
    """How the instruction-LM loss is averaged. A sample here is an instruction with its answer."""

    SAMPLE = "sample"
    """A mean over samples of their tokens' mean."""
    TOKEN = "token"
    """One mean over all tokens ([CODE] video captions)."""
    SUM = "sum"
    """A mean over samples of their tokens' sum: the likelihood of whole answers ([CODE] video QA)."""


class Answers(StrEnum):
    """Which answers to a question are taught where several people answered (VQAv2: ten)."""

    MOST_FREQUENT = "most_frequent"
    ALL = "all"
    """Each different one, weighted by the share of the people who gave it [M1, as ALBEF]."""


class Negatives(StrEnum):
    """What a sample of VLC is contrasted with."""

    GLOBAL = "global"
    """The global batch, exactly."""
    QUEUE = "queue"
    """Features by averaged weights: of the global batch, and of the batches before it; with soft targets (ALBEF, mPLUG)."""


class MLMConfig(Frozen):
    """Masked language modelling on text [CODE, ALBEF convention]."""

    weight: float = Field(default=1.0, ge=0)
    probability: float = Field(default=0.15, gt=0, lt=1)  # [M1]
    mask_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the chosen tokens that become [MASK]."""
    random_share: float = Field(default=0.1, ge=0, le=1)
    """Share that becomes a random token; the rest stays."""


class QueueConfig(Frozen):
    """Momentum encoders and their feature queue, for `negatives: queue`."""

    size: int = Field(default=65536, gt=0)  # [M1] queue_size
    """Samples that stay in the queue, a multiple of the global batch."""
    momentum: float = Field(default=0.995, ge=0, lt=1)  # [M1]
    """Share that a weight's average keeps at a step."""
    alpha: float = Field(default=0.4, ge=0, le=1)  # [M1]
    """Share of the averaged model's similarities in the targets; the rest is on samples of equal ids."""
    alpha_ramp_steps: int = Field(default=14000, ge=0)
    """Steps in which alpha rises from 0, linearly: [M1] the first epoch, 14 M pairs at a global batch of 1,024."""


class VLCConfig(Frozen):
    """Vision-language contrast over the whole global batch [M1]."""

    weight: float = Field(default=1.0, ge=0)
    negatives: Negatives = Negatives.GLOBAL
    queue: QueueConfig = QueueConfig()
    temperature: float = Field(default=0.07, gt=0)  # [M1]
    min_temperature: float = Field(default=0.001, gt=0)  # ALBEF's clamp
    max_temperature: float = Field(default=0.5, gt=0)  # ALBEF's clamp
    chunk: int = Field(default=4096, gt=0)
    """Columns of the similarity matrix that live at once."""

    @property
    def queued(self) -> bool:
        """Whether momentum encoders and their queue are kept."""
        return self.weight > 0 and self.negatives is Negatives.QUEUE


class VLMConfig(Frozen):
    """Vision-language matching with hard negatives, 1 positive : 2 negatives [M1]."""

    weight: float = Field(default=1.0, ge=0)
    group: int = Field(default=16, gt=1)
    """Consecutive samples among which negatives are drawn; every layout keeps a group inside a microbatch."""


class LMConfig(Frozen):
    """Instruction-based language modelling by the shared decoder."""

    weight: float = Field(default=1.0, ge=0)
    averaging: Averaging = Averaging.SAMPLE
    instructions: int = Field(default=1, gt=0)
    """Instructions a picture or clip gets in a step: the first asks for a caption, the others are its questions. A family of questions
    (`downstream.family`) draws so many of its questions, each at most once; one of captions draws so many captions; one of grounding so
    many of its phrases. With `answers: all` they are rows: a question takes one for each of its answers."""
    answers: Answers = Answers.MOST_FREQUENT
    image_instruction: str = "what does the image describe?"  # [PAPER figure 1]
    video_instruction: str = "what does the video describe?"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a token's target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7: 0.1), as in torch's
    `CrossEntropyLoss`; in validation too."""


class ObjectivesConfig(Frozen):
    mlm: MLMConfig = MLMConfig()
    vlc: VLCConfig = VLCConfig()
    vlm: VLMConfig = VLMConfig()
    lm: LMConfig = LMConfig()
