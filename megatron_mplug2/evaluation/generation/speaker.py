"""What the model says about pictures and clips: captions and answers, from an instruction."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PAD
from megatron_mplug2.data.coordinates import longest_text
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.generation.generate import generate
from megatron_mplug2.evaluation.generation.hypotheses import generated
from megatron_mplug2.evaluation.generation.released_search import released_caption, released_question
from megatron_mplug2.evaluation.generation.sampling import draw_key
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding, Mode
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference, Memory

T = TypeVar("T")

CAPTION_TOKENS = (4, 20)  # [CODE]
"""Fewest and most tokens of a caption, [SEP] counted among the most."""
ANSWER_TOKENS = (1, 10)  # [CODE]
ANSWERS_AT_ONCE = 128
"""Most answers that are searched together."""
CACHE_BYTES = 2 << 30
"""And no more than so many that the decoder's cache of their memory stays within this, on each rank."""


class Speaker:
    """`keys`: a number for each picture or clip, of which a draw in mode `sample` is a function; it does not count in others."""

    def __init__(self, inference: Inference, tokenizer: Tokenizer, config: RunConfig, decoding: Decoding | None = None) -> None:
        self.inference = inference
        self._tokenizer, self._config, self._decoding = tokenizer, config, decoding or Decoding()
        self._released = self._decoding.mode is Mode.RELEASED

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """[n, L] int64, L the longest of the texts but no more than text_length."""
        length = min(1 + max(len(self._tokenizer.pieces(text)) for text in texts), self._config.data.text_length)
        return torch.from_numpy(np.stack([self._tokenizer.encode(text, length) for text in texts]))

    def captions(self, media: EncodedMedia, task: Task, keys: Sequence[int]) -> list[str]:
        """A caption of each picture or clip."""
        rows = range(media.tokens.shape[1])
        if self._released:  # its decoder sees the visual tokens alone
            said = self._say(media, rows, [""] * len(rows), keys, CAPTION_TOKENS, self._visual)
            return [released_caption(text) for text in said]
        lm = self._config.objectives.lm
        instruction = lm.video_instruction if task is Task.VIDEO_TEXT else lm.image_instruction
        return self._say(media, rows, [instruction] * len(rows), keys, CAPTION_TOKENS, self._asked)

    def answers(self, media: EncodedMedia, rows: Sequence[int], questions: Sequence[str], keys: Sequence[int]) -> list[str]:
        """The answer to each question about the picture or clip in its row of `media`; `keys` are of these, a key for each question."""
        if self._released:
            questions = [released_question(question) for question in questions]
        return self._say(media, rows, questions, keys, ANSWER_TOKENS, self._asked)

    def boxes(self, media: EncodedMedia, rows: Sequence[int], phrases: Sequence[str], keys: Sequence[int], resolution: int) -> list[str]:
        """What is said of each phrase about the picture in its row, whose side is `resolution`; a box where `read_box` can read it."""
        return self._say(media, rows, phrases, keys, (1, longest_text(resolution) + 1), self._asked)

    def choices(self, media: EncodedMedia, rows: Sequence[int], questions: Sequence[str], choose: Callable[[Memory], list[T]]) -> list[T]:
        """What `choose` makes of the decoder's memory for each question, instead of a generated answer."""
        chosen: list[T] = []
        at_once = answers_at_once(self.inference, media.length + self._config.data.text_length)
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            chosen += choose(self._asked(media, torch.tensor(rows[part], device=self.inference.device), questions[part]))
        return chosen

    def _say(
        self,
        media: EncodedMedia,
        rows: Sequence[int],
        asked: Sequence[str],
        keys: Sequence[int],
        tokens: tuple[int, int],
        memory_of: Callable[[EncodedMedia, torch.Tensor, Sequence[str]], Memory],
    ) -> list[str]:
        bounds, said = self._bounds(tokens), []
        at_once = answers_at_once(self.inference, media.length + self._config.data.text_length)
        for start in range(0, len(asked), at_once):
            part = slice(start, start + at_once)
            memory = memory_of(media, torch.tensor(rows[part], device=self.inference.device), asked[part])
            draws = [draw_key(key, text) for key, text in zip(keys[part], asked[part], strict=True)]
            found = generate(self.inference, memory, draws, self._decoding, bounds)
            said += [self._tokenizer.decode(row).strip() for row in generated(found, bounds)]
        return said

    def _bounds(self, tokens: tuple[int, int]) -> Bounds:
        # As far as the decoder was taught; the released code goes as far as there are positions.
        longest = self._config.model.text.positions if self._released else self._config.data.target_length - 1
        return Bounds(
            min_length=tokens[0],
            max_length=min(tokens[1], longest),
            start=self._tokenizer.cls,
            end=self._tokenizer.sep,
            pad=PAD,
        )

    def _asked(self, media: EncodedMedia, rows: torch.Tensor, asked: Sequence[str]) -> Memory:
        return instructed_memory(self.inference, media, rows, self.tokens(asked))

    def _visual(self, media: EncodedMedia, rows: torch.Tensor, asked: Sequence[str]) -> Memory:
        return self.inference.visual_memory(media, rows)


def instructed_memory(inference: Inference, media: EncodedMedia, rows: torch.Tensor, instructions: torch.Tensor) -> Memory:
    """The decoder's memory for instructions [n, L] int64 about the pictures or clips at `rows` [n] int64."""
    unique, inverse = instructions.unique(dim=0, return_inverse=True)  # the same is asked of many clips
    text = inference.encode_text(unique).rows(inverse.to(inference.device))
    return inference.memory(inference.fuse(text, media, rows), media, rows)


def answers_at_once(inference: Inference, memory_length: int) -> int:
    """How many answers with a memory of so many tokens are searched together."""
    return max(min(ANSWERS_AT_ONCE, CACHE_BYTES // inference.cache_bytes(memory_length)), 1)
