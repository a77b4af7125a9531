"""What a model says about files in words of its own: a caption, or the answer to a question, of each picture and clip."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from megatron_mplug2.config.downstream import FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.coordinates import edges_text, in_picture, read_box
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.generation.settings import Decoding
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.media_files import BATCH, DecodedFile, Fault, MediaFile, Said, decoded_file, input_of


class TrainedModel:
    """It takes pictures and clips as the evaluation does: full view, middle frames, last phase."""

    def __init__(self, inference: Inference, config: RunConfig, decoding: Decoding) -> None:
        self._inference, self.config = inference, config
        self._grounds = config.downstream is not None and config.downstream.family.kind is FamilyKind.GROUNDING
        self._speaker = Speaker(inference, Tokenizer(config.data.vocab, config.model.text.vocab_size), config, decoding)

    def say(self, media: torch.Tensor, task: Task, question: str | None, keys: Sequence[int]) -> list[str]:
        """A caption of each of `media` [b, 3, T, R, R] uint8, or the answer to the question; a draw is a function of its key."""
        encoded = self._inference.encode_media(media, task)
        if question is None:
            return self._speaker.captions(encoded, task, keys)
        rows, asked = range(len(keys)), [question] * len(keys)
        if self._grounds:
            return self._speaker.boxes(encoded, rows, asked, keys, media.shape[-1])
        return self._speaker.answers(encoded, rows, asked, keys)

    def told(self, said: str, picture: MediaFacts) -> str:
        """Of a run of grounding a box as left, upper, right and lower edge in the file's own pixels; what is no box stays as it is."""
        resolution = input_of(self.config, Task.IMAGE_TEXT).resolution
        box = read_box(said, resolution) if self._grounds else None
        return said if box is None else edges_text(in_picture(box, picture, resolution))


def predict(model: TrainedModel, files: Sequence[MediaFile], question: str | None = None) -> Iterator[Said | Fault]:
    """In the order of the files. What is drawn of a file is a function of its content."""
    for task, group in groupby(files, key=lambda file: file.task):
        together = list(group)
        for start in range(0, len(together), BATCH):
            yield from _predict_batch(model, task, together[start : start + BATCH], question)


def _predict_batch(model: TrainedModel, task: Task, files: Sequence[MediaFile], question: str | None) -> Iterator[Said | Fault]:
    form = input_of(model.config, task)
    decoded = [decoded_file(file, form) for file in files]
    good = [one for one in decoded if isinstance(one, DecodedFile)]
    said = iter(model.say(torch.stack([one.pixels for one in good]), task, question, [one.key for one in good]) if good else ())
    for file, one in zip(files, decoded, strict=True):
        if isinstance(one, Fault):
            yield one
        else:
            text = next(said)
            yield Said(name=str(file.path), text=text if one.facts is None else model.told(text, one.facts))
