"""What the model says about pictures and clips: captions and answers, by beam search from an instruction."""

from collections.abc import Sequence

import numpy as np
import torch

from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.data.batch import PAD
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.beam_search import BeamSettings, beam_search, generated
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference

BEAMS = 5  # [CODE], as are the lengths
CAPTION_TOKENS = (4, 20)
"""Fewest and most tokens of a caption, [SEP] counted among the most."""
ANSWER_TOKENS = (1, 10)
ANSWERS_AT_ONCE = 128
"""Answers that are searched together."""


class Speaker:
    def __init__(self, inference: Inference, tokenizer: Tokenizer, config: RunConfig) -> None:
        self.inference = inference
        self._tokenizer, self._config = tokenizer, config

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """[n, L] int64, L the longest of the texts but no more than text_length."""
        length = min(1 + max(len(self._tokenizer.pieces(text)) for text in texts), self._config.data.text_length)
        return torch.from_numpy(np.stack([self._tokenizer.encode(text, length) for text in texts]))

    def captions(self, media: EncodedMedia, task: Task) -> list[str]:
        """A caption of each picture or clip."""
        lm = self._config.objectives.lm
        instruction = lm.video_instruction if task is Task.VIDEO_TEXT else lm.image_instruction
        rows = range(media.tokens.shape[1])
        return self._say(media, rows, [instruction] * len(rows), CAPTION_TOKENS)

    def answers(self, media: EncodedMedia, rows: Sequence[int], questions: Sequence[str]) -> list[str]:
        """The answer to each question about the picture or clip in its row of `media`."""
        return self._say(media, rows, questions, ANSWER_TOKENS)

    def _say(self, media: EncodedMedia, rows: Sequence[int], asked: Sequence[str], tokens: tuple[int, int]) -> list[str]:
        settings = BeamSettings(
            width=BEAMS,
            min_length=tokens[0],
            max_length=min(tokens[1], self._config.data.target_length - 1),  # as far as the decoder was taught
            start=self._tokenizer.cls,
            end=self._tokenizer.sep,
            pad=PAD,
        )
        said: list[str] = []
        for start in range(0, len(asked), ANSWERS_AT_ONCE):
            part = slice(start, start + ANSWERS_AT_ONCE)
            ids = answer_ids(self.inference, media, torch.tensor(rows[part]), self.tokens(asked[part]), settings)
            said += [self._tokenizer.decode(row).strip() for row in ids]
        return said


def answer_ids(
    inference: Inference, media: EncodedMedia, rows: torch.Tensor, instructions: torch.Tensor, settings: BeamSettings
) -> list[list[int]]:
    """Token ids, without special ones, of the answer to each instruction.

    `rows` [n] int64, the picture or clip that each one is about; `instructions` [n, L] int64 token ids.
    """
    rows = rows.to(inference.device)
    unique, inverse = instructions.unique(dim=0, return_inverse=True)  # the same is asked of many clips
    text = inference.encode_text(unique).rows(inverse.to(inference.device))
    memory = inference.memory(inference.fuse(text, media, rows), media, rows)
    hypotheses = beam_search(lambda ids: inference.next_logits(ids, memory), len(rows), settings, inference.device)
    return generated(hypotheses, settings)
