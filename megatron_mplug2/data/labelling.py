"""What a family with a closed list of classes asks about a sample, and which class is right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.downstream import Family, FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.class_list import ClassList, read_classes
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Labelling:
    family: Family
    classes: ClassList
    instruction: str
    """What is asked about every picture or clip, where only its class is wanted."""

    def gap(self, record: Record) -> str | None:
        """What a sample lacks; None where it can be taught and judged, if its label is in the list."""
        if is_blank(record.label or ""):
            return "no label"
        if self.family.kind is FamilyKind.ENTAILMENT and is_blank("".join(record.captions[:1])):
            return "no sentence"
        if self.family.task is Task.TEXT and is_blank(record.text):
            return "no text"
        return None

    def place(self, record: Record) -> int | None:
        """Of the right class; None where the label is not in the list."""
        return self.classes.place(record.label or "")

    def not_listed(self, record: Record) -> str:
        return f"the label {record.label!r} is not among the classes of {self.classes.path}; add it there"

    def asked(self, record: Record) -> str:
        """The instruction, or the sentence; of a text what there is to read. Nothing where there is a gap."""
        if self.family.task is Task.TEXT:
            return " / ".join(text for text in (record.text, record.second_text) if text)
        return "".join(record.captions[:1]) if self.family.kind is FamilyKind.ENTAILMENT else self.instruction


def labelling_of(config: RunConfig) -> Labelling | None:
    """None for a run of another family, or of none. Raises UserError where the list of classes cannot be used."""
    downstream = config.downstream
    if downstream is None or downstream.classes is None:
        return None
    lm = config.objectives.lm
    instruction = lm.video_instruction if downstream.family.task is Task.VIDEO_TEXT else lm.image_instruction
    return Labelling(family=downstream.family, classes=read_classes(downstream.classes.file), instruction=instruction)


def framed_texts(tokenizer: Tokenizer, record: Record, length: int) -> NDArray[np.int64]:
    """[length] `[CLS] A`, or of a pair `[CLS] A [SEP] B [SEP]` [CODE], padded; what is too long is cut at the end of the longer text."""
    first, second = tokenizer.pieces(record.text), tokenizer.pieces(record.second_text)
    if not second:
        return tokenizer.frame(first, length)
    room = max(length - 3, 0)
    kept = max(min(len(first), room - min(len(second), room // 2)), 0)
    return tokenizer.frame([*first[:kept], tokenizer.sep, *second[: room - kept], tokenizer.sep], length)
