"""Files that a person names, as pixels for a model: pictures and clips in the form that it takes them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.contract import ClipRequest, PictureRequest, Transform
from megatron_mplug2.data.decoding.pyav import decode_clip, decode_picture
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.media_kind import task_of
from megatron_mplug2.data.probing import picture_facts
from megatron_mplug2.data.views import WHOLE, EvaluationView

BATCH = 8
"""Most files that go through the model together."""


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    path: Path
    task: Task
    """Whether it is a picture or a clip."""


@dataclass(frozen=True, kw_only=True)
class Said:
    name: str
    """What it is said of: a file, the files of a pair, a line of a file."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The form in which a model takes pictures or clips."""

    frames: int
    resolution: int
    resize: ResizeFilter = ResizeFilter.BICUBIC
    """Of clips."""


@dataclass(frozen=True, kw_only=True)
class DecodedFile:
    pixels: torch.Tensor
    """[3, T, R, R] uint8."""
    facts: MediaFacts | None
    """None of a clip."""
    key: int
    """A function of the file's content."""


def input_of(config: RunConfig, task: Task) -> ModelInput:
    """Of the last phase with the task; where it was not trained on, of the last phase."""
    phases = [phase for phase in config.schedule if phase.share(task) > 0] or config.schedule
    frames = phases[-1].frames if task is Task.VIDEO_TEXT else 1
    return ModelInput(frames=frames, resolution=phases[-1].resolution, resize=config.data.test_transform)


def look_at(path: Path) -> MediaFile | Fault:
    """What a file is, by its header."""
    try:
        return MediaFile(path=path, task=task_of(path.read_bytes()))
    except OSError as error:
        return unreadable(path, error)
    except BadMedia as bad:
        return Fault(name=str(path), reason=str(bad))


def unreadable(path: Path, error: OSError) -> Fault:
    return Fault(name=str(path), reason=str(error.strerror).lower())


def decoded_file(file: MediaFile, form: ModelInput, view: EvaluationView = WHOLE) -> DecodedFile | Fault:
    """As an evaluation sees it in that view."""
    transform = Transform(resolution=form.resolution, view=view.crop, resize=form.resize)
    shares = None if view.segment_share is None else [view.segment_share] * form.frames
    try:
        data = file.path.read_bytes()
        facts: MediaFacts | None
        if file.task is Task.IMAGE_TEXT:
            facts, pixels = picture_facts(data), decode_picture(PictureRequest(data=data, transform=transform))
        else:
            facts = None
            pixels = decode_clip(ClipRequest(data=data, frames=form.frames, segment_shares=shares, transform=transform))
    except OSError as error:
        return unreadable(file.path, error)
    except BadMedia as bad:
        return Fault(name=str(file.path), reason=str(bad))
    return DecodedFile(pixels=pixels, facts=facts, key=int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
