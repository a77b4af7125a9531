"""The likeliest of a closed list of answers, by the decoder's probability of all their tokens."""

from dataclasses import replace

import numpy as np
import torch

from megatron_mplug2.data.batch import PAD
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.answer_list import AnswerList
from megatron_mplug2.evaluation.inference import Inference, Memory
from megatron_mplug2.models.decoder_cache import DecoderCache

AT_ONCE = 128  # [CODE] k_test
"""Answers of a question that are scored whole together."""
ROWS = 2048
"""Most sequences that are decoded side by side."""


class AnswerRanker:
    """Chooses among the answers of a list. All tensor-parallel ranks call alike and find the same."""

    def __init__(self, inference: Inference, tokenizer: Tokenizer, answers: AnswerList, length: int) -> None:
        """`length`: tokens that the decoder was taught at most. Raises UserError for an answer that is longer, or nothing to it."""
        self.answers = answers.answers
        self._inference = inference
        longest = check_lengths(tokenizer, answers, length)
        rows = np.stack([tokenizer.target(answer, 2 + longest) for answer in self.answers])
        self._ids = torch.from_numpy(rows).to(inference.device)
        """[A, L] `[CLS] answer [SEP]`, padded."""

    def best(self, memory: Memory, at_once: int = AT_ONCE) -> list[str]:
        """The answer to each question, a row of `memory`; the first in the list of equally likely ones."""
        return [self.answers[place] for place in self.scores(memory, at_once)[1].tolist()]

    @torch.no_grad()
    def scores(self, memory: Memory, at_once: int = AT_ONCE) -> tuple[torch.Tensor, torch.Tensor]:
        """[n] fp32 and [n] int64: log-probability and place in the list of each question's likeliest answer.

        Two steps, as released: answers by their first token, then the best `at_once` of them whole. The released code stops there. This
        one goes on while an answer that was not scored could still win: none can be likelier than its first token.
        """
        parts = [self._part(part, at_once) for part in split(memory, max(ROWS // at_once, 1))]
        return torch.cat([score for score, _ in parts]), torch.cat([place for _, place in parts])

    @torch.no_grad()
    def all_scores(self, memory: Memory, at_once: int = AT_ONCE) -> torch.Tensor:
        """[n, A] fp32: log-probability of every answer to each question, in the order of the list."""
        return torch.cat([self._whole(part, at_once) for part in split(memory, max(ROWS // at_once, 1))])

    def _whole(self, memory: Memory, at_once: int) -> torch.Tensor:
        begun, first = self._first(memory)
        by_length = (self._ids != PAD).sum(dim=1).argsort(stable=True)  # those of a part end together
        parts = [part.expand(memory.answers, -1) for part in by_length.split(at_once)]
        rest = torch.cat([self._rest(_going_on(begun), part) for part in parts], dim=1)
        return first + rest[:, by_length.argsort()]

    def _first(self, memory: Memory) -> tuple[DecoderCache, torch.Tensor]:
        """The cache at `[CLS]`, and [n, A] log-probability of each answer's first token."""
        begun = self._inference.start_decoding(memory)
        rows = torch.arange(memory.answers, device=self._ids.device)
        start = self._ids[:1, 0].expand(memory.answers)
        return begun, self._inference.next_token_logits(start, rows, begun).log_softmax(-1)[:, self._ids[:, 1]]

    def _part(self, memory: Memory, at_once: int) -> tuple[torch.Tensor, torch.Tensor]:
        begun, first = self._first(memory)
        bound, order = first.sort(dim=1, descending=True, stable=True)
        score, place = torch.full_like(bound[:, 0], -torch.inf), torch.zeros_like(order[:, 0])
        for part in range(0, len(self.answers), at_once):
            if bool((bound[:, part] < score).all()):
                break
            answers = order[:, part : part + at_once]
            whole = bound[:, part : part + at_once] + self._rest(_going_on(begun), answers)
            best = whole.amax(dim=1)
            # The first in the list among equals, whatever the order of their first tokens.
            at = answers.masked_fill(whole < best[:, None], len(self.answers)).amin(dim=1)
            better = (best > score) | ((best == score) & (at < place))
            score, place = torch.where(better, best, score), torch.where(better, at, place)
        return score, place

    def _rest(self, begun: DecoderCache, answers: torch.Tensor) -> torch.Tensor:
        """[n, k] summed log-probability of the tokens behind the first of `answers` [n, k], each question's cache at `[CLS]`."""
        questions, width = answers.shape
        ids = self._ids[answers].flatten(0, 1)
        total = torch.zeros(len(ids), device=ids.device)
        parents = torch.arange(questions, device=ids.device).repeat_interleave(width)
        for place in range(1, int((ids != PAD).sum(1).max()) - 1):
            step = self._inference.next_token_logits(ids[:, place], parents, begun).log_softmax(-1)
            own = step.gather(1, ids[:, place + 1, None])[:, 0]
            total += own.masked_fill(ids[:, place + 1] == PAD, 0.0)
            parents = torch.arange(len(ids), device=ids.device)
        return total.unflatten(0, (questions, width))


def check_lengths(tokenizer: Tokenizer, answers: AnswerList, length: int) -> int:
    """Tokens of the longest answer. Raises UserError for one that is longer than a target of `length` has room for, or nothing to it."""
    pieces = [len(tokenizer.pieces(answer)) for answer in answers.answers]
    for number, (answer, count) in enumerate(zip(answers.answers, pieces, strict=True), 1):
        if not 0 < count <= length - 2:
            raise UserError(
                f"{answers.path}, line {number}: {answer!r} is {count} tokens, but the decoder says 1 to {length - 2}: "
                "leave it out, or raise data.target_length"
            )
    return max(pieces)


def split(memory: Memory, most: int) -> list[Memory]:
    """In parts of so many rows."""
    rows = range(0, memory.answers, most)
    return [Memory(tokens=memory.tokens[:, row : row + most], keys=memory.keys[row : row + most]) for row in rows]


def _going_on(cache: DecoderCache) -> DecoderCache:
    """From the same tokens, without a change to it: a step puts new keys and values in their place, and writes into none."""
    return DecoderCache(layers=[replace(layer) for layer in cache.layers], length=cache.length)
