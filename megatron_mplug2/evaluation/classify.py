"""Probabilities of a list's classes: by what the decoder says, or without finetuning by what VLC finds alike."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.labelling import Labelling, framed_texts
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.answer_list import AnswerList
from megatron_mplug2.evaluation.generation.answer_ranking import AnswerRanker
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import Inference, Memory

TEXTS_AT_ONCE = 256
"""Prompts that are encoded together."""


class Classifier(Protocol):
    """All tensor-parallel ranks call alike and find the same. Without gradients."""

    def of_media(self, pixels: torch.Tensor, records: Sequence[Record]) -> torch.Tensor:
        """Pictures or clips [b, 3, T, R, R] with their texts -> [b, classes] fp32 on the CPU, a row sums to 1."""

    def of_texts(self, records: Sequence[Record]) -> torch.Tensor:
        """The same of texts."""


def make_classifier(inference: Inference, config: RunConfig, labelling: Labelling) -> Classifier:
    """Raises UserError for a class that is longer than what the decoder was taught, or nothing to its vocabulary."""
    assert config.downstream is not None and config.downstream.classes is not None
    prompts = config.downstream.classes.prompts
    return PromptClassifier(inference, config, labelling, prompts) if prompts else DecoderClassifier(inference, config, labelling)


def listed(labelling: Labelling) -> AnswerList:
    """The classes as answers."""
    return AnswerList(path=labelling.classes.path, answers=labelling.classes.names)


class DecoderClassifier:
    """A class is as likely as all its words are as the decoder's answer, among those of the list."""

    def __init__(self, inference: Inference, config: RunConfig, labelling: Labelling) -> None:
        self._inference, self._labelling, self._length = inference, labelling, config.data.document_length
        self._tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
        self._speaker = Speaker(inference, self._tokenizer, config)
        self._ranker = AnswerRanker(inference, self._tokenizer, listed(labelling), config.data.target_length)

    def of_media(self, pixels: torch.Tensor, records: Sequence[Record]) -> torch.Tensor:
        media = self._inference.encode_media(pixels, self._labelling.family.task)
        asked = [self._labelling.asked(record) for record in records]
        return torch.stack(self._speaker.choices(media, range(len(asked)), asked, self._rows))

    def of_texts(self, records: Sequence[Record]) -> torch.Tensor:
        rows = torch.from_numpy(np.stack([framed_texts(self._tokenizer, record, self._length) for record in records]))
        longest = int((rows != 0).sum(dim=1).max())
        text = self._inference.encode_text(rows[:, :longest])
        return torch.stack(self._rows(Memory(tokens=text.tokens, keys=text.keys)))

    def _rows(self, memory: Memory) -> list[torch.Tensor]:
        return list(self._ranker.all_scores(memory).softmax(dim=1).cpu())


class PromptClassifier:
    """The likelier a class, the more its texts are like the picture or clip, by VLC's similarity and temperature. Of several texts the
    mean of their features counts, as CLIP's (Radford et al. 2021, section 3.1.4)."""

    def __init__(self, inference: Inference, config: RunConfig, labelling: Labelling, prompts: Sequence[str]) -> None:
        self._inference, self._task = inference, labelling.family.task
        tokenizer, length = Tokenizer(config.data.vocab, config.model.text.vocab_size), config.data.text_length
        texts = [prompt.replace("{}", name) for name in labelling.classes.names for prompt in prompts]
        rows = torch.from_numpy(np.stack([tokenizer.encode(text, length) for text in texts]))
        features = torch.cat([inference.text_features(inference.encode_text(part)) for part in rows.split(TEXTS_AT_ONCE)])
        self._features = F.normalize(features.unflatten(0, (-1, len(prompts))).mean(dim=1), dim=1)
        """[classes, contrastive width]."""

    def of_media(self, pixels: torch.Tensor, records: Sequence[Record]) -> torch.Tensor:
        features = self._inference.vision_features(self._inference.encode_media(pixels, self._task))
        return (features @ self._features.T / self._inference.temperature()).softmax(dim=1).cpu()

    def of_texts(self, records: Sequence[Record]) -> torch.Tensor:
        raise ValueError(f"texts have no picture or clip to compare with: {Task.TEXT} has no prompts")
