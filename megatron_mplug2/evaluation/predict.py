"""What a model says about files: a caption, or the answer to a question, of each picture and clip."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import torch

from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.config.downstream import FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.coordinates import edges_text, in_picture, read_box
from megatron_mplug2.data.decoding.contract import ClipRequest, PictureRequest, Transform
from megatron_mplug2.data.decoding.pyav import decode_clip, decode_picture
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.media_kind import task_of
from megatron_mplug2.data.probing import picture_facts
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.generation.settings import Decoding
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import Inference

BATCH = 8
"""Most files that go through the model together."""


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    path: Path
    task: Task
    """Whether it is a picture or a clip."""


@dataclass(frozen=True, kw_only=True)
class Said:
    path: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The form in which a model takes pictures or clips."""

    frames: int
    resolution: int
    resize: ResizeFilter = ResizeFilter.BICUBIC
    """Of clips."""


class Model(Protocol):
    """What can be asked about pictures and clips, wherever its weights are from."""

    def input_of(self, task: Task) -> ModelInput: ...

    def say(self, media: torch.Tensor, task: Task, question: str | None, keys: Sequence[int]) -> list[str]:
        """A caption of each of `media` [b, 3, T, R, R] uint8, or the answer to the question; a draw is a function of its key."""

    def told(self, said: str, picture: MediaFacts) -> str:
        """What is said of a picture, in its own pixels where it is about places."""


class TrainedModel:
    """A `Model` with the weights of a run. It takes pictures and clips as the evaluation does: full view, middle frames, last phase."""

    def __init__(self, inference: Inference, config: RunConfig, decoding: Decoding) -> None:
        self._inference, self._config = inference, config
        self._grounds = config.downstream is not None and config.downstream.family.kind is FamilyKind.GROUNDING
        self._speaker = Speaker(inference, Tokenizer(config.data.vocab, config.model.text.vocab_size), config, decoding)

    def input_of(self, task: Task) -> ModelInput:
        """Of the last phase with the task; where it was not trained on, of the last phase."""
        phases = [phase for phase in self._config.schedule if phase.share(task) > 0] or self._config.schedule
        frames = phases[-1].frames if task is Task.VIDEO_TEXT else 1
        return ModelInput(frames=frames, resolution=phases[-1].resolution, resize=self._config.data.test_transform)

    def say(self, media: torch.Tensor, task: Task, question: str | None, keys: Sequence[int]) -> list[str]:
        encoded = self._inference.encode_media(media, task)
        if question is None:
            return self._speaker.captions(encoded, task, keys)
        rows, asked = range(len(keys)), [question] * len(keys)
        if self._grounds:
            return self._speaker.boxes(encoded, rows, asked, keys, media.shape[-1])
        return self._speaker.answers(encoded, rows, asked, keys)

    def told(self, said: str, picture: MediaFacts) -> str:
        """Of a run of grounding a box as left, upper, right and lower edge in the file's own pixels; what is no box stays as it is."""
        resolution = self.input_of(Task.IMAGE_TEXT).resolution
        box = read_box(said, resolution) if self._grounds else None
        return said if box is None else edges_text(in_picture(box, picture, resolution))


def look_at(path: Path) -> MediaFile | Fault:
    """What a file is, by its header."""
    try:
        return MediaFile(path=path, task=task_of(path.read_bytes()))
    except OSError as error:
        return Fault(path=path, reason=str(error.strerror).lower())
    except BadMedia as bad:
        return Fault(path=path, reason=str(bad))


def predict(model: Model, files: Sequence[MediaFile], question: str | None = None) -> Iterator[Said | Fault]:
    """In the order of the files. What is drawn of a file is a function of its content."""
    for task, group in groupby(files, key=lambda file: file.task):
        together = list(group)
        for start in range(0, len(together), BATCH):
            yield from _predict_batch(model, task, together[start : start + BATCH], question)


def _predict_batch(model: Model, task: Task, files: Sequence[MediaFile], question: str | None) -> Iterator[Said | Fault]:
    form = model.input_of(task)
    decoded = [_decoded(file, form) for file in files]
    good = [one for one in decoded if isinstance(one, _Decoded)]
    said = iter(model.say(torch.stack([one.pixels for one in good]), task, question, [one.key for one in good]) if good else ())
    for file, one in zip(files, decoded, strict=True):
        if isinstance(one, Fault):
            yield one
        else:
            text = next(said)
            yield Said(path=file.path, text=text if one.facts is None else model.told(text, one.facts))


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    pixels: torch.Tensor
    """[3, T, R, R] uint8."""
    facts: MediaFacts | None
    """None of a clip."""
    key: int


def _decoded(file: MediaFile, form: ModelInput) -> _Decoded | Fault:
    transform = Transform(resolution=form.resolution, resize=form.resize)
    try:
        data = file.path.read_bytes()
        facts: MediaFacts | None
        if file.task is Task.IMAGE_TEXT:
            facts, pixels = picture_facts(data), decode_picture(PictureRequest(data=data, transform=transform))
        else:
            facts = None
            pixels = decode_clip(ClipRequest(data=data, frames=form.frames, segment_shares=None, transform=transform))
    except OSError as error:
        return Fault(path=file.path, reason=str(error.strerror).lower())
    except BadMedia as bad:
        return Fault(path=file.path, reason=str(bad))
    return _Decoded(pixels=pixels, facts=facts, key=int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
