"""A few samples of an evaluation that can be shown without the corpus: frames as the model saw them, what it said, how it retrieved."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.evaluation.captions import CaptionPrediction
from megatron_mplug2.evaluation.questions import Answer
from megatron_mplug2.evaluation.ranking import Place
from megatron_mplug2.pages.picture import Levels, jpeg, levels

SHOWN = 12
"""Samples of a stream."""
FRAMES, SIDE = 4, 160
"""Of a clip at most; pixels of a frame at most."""
TEXTS = 3
"""Captions, and questions, of a sample at most."""


class ShownAnswer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    answer: str
    """The true one."""
    said: str
    said_reversed: str | None = None
    """Of the clip played backwards, where that was asked."""


class ShownSample(BaseModel):
    """A line of `samples.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    index: int = Field(ge=0)
    """In its stream of the split."""
    key: str
    frames: tuple[str, ...] = Field(max_length=FRAMES)
    """JPEG files in base64, square."""
    resolution: int = Field(gt=0)
    """Side of the frames that the model saw, in pixels."""
    captions: tuple[str, ...]
    """True ones."""
    said: str | None
    """The model's caption; None where none was asked for."""
    answers: tuple[ShownAnswer, ...]
    text_place: int = Field(gt=0)
    """Place, from 1 on, of this picture or clip (or one that means the same) for the sample's text."""
    media_place: int = Field(gt=0)
    """Place of the sample's text for its picture or clip."""
    gallery: int = Field(gt=0)
    """Samples that were searched."""
    found: str
    """The text that comes first for the picture or clip."""


@dataclass(frozen=True, kw_only=True)
class SeenSample:
    """What only the rank that read a sample has of it."""

    index: int
    frames: tuple[str, ...]
    resolution: int


def chosen(samples: int) -> frozenset[int]:
    """Which samples of a stream are shown, spread over all of it."""
    return frozenset(number * samples // SHOWN for number in range(SHOWN)) if samples else frozenset()


def seen(index: int, media: torch.Tensor, side: int = SIDE) -> SeenSample:
    """`media` [3, T, R, R] uint8, on any device; frames have `side` pixels at most."""
    frames, resolution = media.shape[1], media.shape[2]
    kept = sorted({round(place) for place in torch.linspace(0, frames - 1, min(frames, FRAMES)).tolist()})
    return SeenSample(
        index=index, frames=tuple(encoded_frame(levels(media[:, frame].cpu()), side) for frame in kept), resolution=resolution
    )


def encoded_frame(picture: Levels, side: int = SIDE) -> str:
    """JPEG in base64, made smaller where it is larger than `side`."""
    if len(picture) > side:
        picture = np.asarray(Image.fromarray(picture).resize((side, side)))
    return base64.b64encode(jpeg(picture)).decode()


def shown_samples(
    task: Task,
    manifest: Manifest,
    samples: Sequence[SeenSample],
    captions: Sequence[CaptionPrediction],
    answers: Sequence[Answer],
    places: Mapping[int, Place],
) -> tuple[ShownSample, ...]:
    """Puts together what is known of the samples; `places` by index, of all that were searched."""
    said = {caption.index: caption.said for caption in captions}
    return tuple(
        ShownSample(
            task=task,
            index=sample.index,
            key=manifest.entry(sample.index).key,
            frames=sample.frames,
            resolution=sample.resolution,
            captions=manifest.record(sample.index).captions[:TEXTS],
            said=said.get(sample.index),
            answers=tuple(_answer(answer) for answer in answers if answer.index == sample.index)[:TEXTS],
            text_place=places[sample.index].of_media,
            media_place=places[sample.index].of_text,
            gallery=len(places),
            found=next(iter(manifest.record(places[sample.index].first_text).captions), ""),
        )
        for sample in samples
    )


def _answer(answer: Answer) -> ShownAnswer:
    asked = answer.question
    return ShownAnswer(question=asked.question, answer=asked.answer, said=answer.said, said_reversed=answer.said_reversed)
