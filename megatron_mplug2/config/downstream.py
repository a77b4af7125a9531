"""What a run is finetuned for."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from megatron_mplug2.config.node import Frozen
from megatron_mplug2.config.schedule import Task


class CaptionLoss(StrEnum):
    """What captions are finetuned by."""

    LIKELIHOOD = "likelihood"
    """The cross-entropy of the corpus's captions."""
    CIDER = "cider"
    """The CIDEr-D of captions that the model draws, against that of its likeliest one (SCST, Rennie et al. 2017, arXiv 1612.00563)."""


class FamilyKind(StrEnum):
    """What a family learns from a sample, whether that is a picture or a clip."""

    QA = "qa"
    """Answers to its questions; a caption is not needed."""
    CAPTION = "caption"
    """A caption, asked by `objectives.lm`'s instruction."""
    GROUNDING = "grounding"
    """The box of what a phrase speaks of, as four numbers."""
    RETRIEVAL = "retrieval"
    """Which caption belongs to it, by VLC and VLM."""
    CLASSIFICATION = "classification"
    """Its label, one of a closed list: the decoder says its words."""
    ENTAILMENT = "entailment"
    """What it says to a sentence, which is its caption: a label of a closed list, likewise."""


class Family(StrEnum):
    """Kinds of downstream tasks: what is learned from a sample and how it is judged."""

    IMAGE_QA = "image_qa"
    VIDEO_QA = "video_qa"
    IMAGE_CAPTION = "image_caption"
    VIDEO_CAPTION = "video_caption"
    IMAGE_GROUNDING = "image_grounding"
    IMAGE_RETRIEVAL = "image_retrieval"
    VIDEO_RETRIEVAL = "video_retrieval"
    IMAGE_CLASSIFICATION = "image_classification"
    VIDEO_CLASSIFICATION = "video_classification"
    TEXT_CLASSIFICATION = "text_classification"
    """Of a text, or of two (GLUE)."""
    IMAGE_ENTAILMENT = "image_entailment"
    """SNLI-VE."""
    PAIR_ENTAILMENT = "pair_entailment"
    """What two pictures together say to a sentence (NLVR2): seen as a clip of two frames, left and right."""

    @property
    def task(self) -> Task:
        """The stream that its samples come from."""
        tasks = {"video": Task.VIDEO_TEXT, "text": Task.TEXT}
        return tasks.get(self.value.partition("_")[0], Task.IMAGE_TEXT)

    @property
    def classifies(self) -> bool:
        """Whether it chooses among a closed list, `downstream.classes`."""
        return self.kind in (FamilyKind.CLASSIFICATION, FamilyKind.ENTAILMENT)

    @property
    def pictures(self) -> int:
        """Pictures of a sample of the stream of pictures."""
        return 2 if self is Family.PAIR_ENTAILMENT else 1

    @property
    def kind(self) -> FamilyKind:
        return FamilyKind(self.value.partition("_")[2])


class Better(StrEnum):
    LOWER = "lower"
    HIGHER = "higher"


class BestConfig(Frozen):
    """By which figure of validation a run's best checkpoint is found: it is saved, stays, and is what an evaluation takes."""

    figure: str = Field(min_length=1)
    """As validation names it, such as "video_text/loss/lm" or "video_text/retrieval/t2v_r1"."""
    better: Better = Better.LOWER
    patience: int = Field(default=0, ge=0)
    """Validations in a row without a better figure after which the run is finished; 0: it goes to the end of its schedule."""


class ClassesConfig(Frozen):
    """The closed list that a family of classification or entailment chooses from, and how an evaluation looks at it."""

    file: Path
    """A text file with a class on each line, in the words of the samples' labels, as `mplug2 data classes` writes it from shards; or the
    config.json of an exported model, for its `id2label`. Of two classes the last is the one that F1 is about. Where all are numbers, a
    label is taught as the nearest of them, and the model's answer is their mean by probability."""
    prompts: tuple[str, ...] = ()
    """Zero-shot: texts with {} for the class, such as "a photo of a {}". An evaluation then takes the class whose texts are most like the
    picture or clip by VLC, as CLIP does (Radford et al. 2021, section 3.1), instead of what the decoder says; nothing is finetuned."""
    segments: int = Field(default=1, gt=0)
    """Choices of frames of a clip over which an evaluation averages the probabilities; 1: the middle of each segment."""
    crops: Literal[1, 3] = 1
    """Crops of each over which it averages too; 1: the whole picture or frame."""


class DownstreamConfig(Frozen):
    """What a run is finetuned for."""

    family: Family
    classes: ClassesConfig | None = None
    """None for families that have no closed list."""
    caption_loss: CaptionLoss = CaptionLoss.LIKELIHOOD
    best: BestConfig | None = None
    """None keeps the last checkpoints alone."""
