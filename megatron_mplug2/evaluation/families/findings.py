"""What an evaluation of a downstream family finds: scores, and everything that was said."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from megatron_mplug2.data.evaluation_batches import EvaluationBatch
from megatron_mplug2.data.record import Record
from megatron_mplug2.evaluation.inference import EncodedMedia
from megatron_mplug2.evaluation.progress import EvaluationProgress


class Kind(StrEnum):
    ANSWER = "answer"
    CAPTION = "caption"
    BOX = "box"
    """Four numbers: what a phrase speaks of."""
    TEXT_TO_MEDIA = "text_to_media"
    """The picture or clip that a text finds."""
    MEDIA_TO_TEXT = "media_to_text"
    CLASS = "class"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A line of the prediction file."""

    index: int
    """Sample in its stream of the split."""
    key: str
    kind: Kind
    asked: str
    """Question or text; empty where the picture or clip alone is the question."""
    said: str
    """Answer, caption, or what stands first: the key of a picture or clip, or a text."""
    references: tuple[str, ...]
    """All that is right."""
    score: float
    """Percent: 100 is right (CIDEr may be more); of a box its overlap; of retrieval 100 over the place of the first right item, 0 if it is
    no candidate."""
    found: int | None = None
    """Sample whose picture or clip stands first for a text; None of other kinds."""


@dataclass(frozen=True, kw_only=True)
class Score:
    name: str
    value: float
    """Percent."""
    chance: float | None = None
    """Without a look at pictures or clips, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The same on every rank."""

    scores: tuple[Score, ...]
    """The first is the one that a model is chosen by."""
    predictions: tuple[Prediction, ...]
    """By rising sample."""
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know."""


class FamilyWork(Protocol):
    """The work of one rank. Keys of samples are known to who calls it."""

    what: str
    """What is done with a batch, for the progress."""

    def fault(self, index: int, record: Record) -> str | None:
        """Why the sample `index` of the manifest, with these texts, cannot be judged; None where it can."""

    def add(self, batch: EvaluationBatch, media: EncodedMedia, records: Sequence[Record]) -> None:
        """Samples of this rank, at least one, with their encoded media and texts. Not collective over data-parallel ranks."""

    def findings(self, progress: EvaluationProgress) -> Findings:
        """Over the samples of all ranks; collective over the world. Raises UserError where there is nothing to judge."""
