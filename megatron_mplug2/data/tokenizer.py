"""Texts to token rows and back, with the released model's quirk: a text is `[CLS] X`, without a `[SEP]` after it."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.data.batch import PAD
from megatron_mplug2.data.subwords import SPECIALS, WHERE_FROM, open_subwords
from megatron_mplug2.errors import UserError

_CACHED = 1024
"""Texts whose ids are kept: instructions, questions and answers come again and again."""


class Tokenizer:
    """Rows of ids over a WordPiece or sentencepiece vocabulary. A special token's name inside a text is plain text, so data cannot place
    special tokens."""

    def __init__(self, vocab: Path, vocab_size: int) -> None:
        """`vocab_size`: rows of the model's embedding. Raises UserError for a vocabulary that is missing, damaged or larger."""
        self._subwords = open_subwords(vocab)
        pieces = self._subwords.pieces
        if pieces[PAD] != "[PAD]":
            raise UserError(f"data.vocab={vocab} begins with {pieces[PAD]!r}, but the first piece must be [PAD]: {WHERE_FROM}")
        if len(pieces) == len(SPECIALS):
            raise UserError(f"data.vocab={vocab} has nothing but special tokens: {WHERE_FROM}")
        if len(pieces) > vocab_size:
            raise UserError(
                f"{vocab} has {len(pieces)} pieces, model.text.vocab_size={vocab_size} is less: set it to {len(pieces)} or more"
            )
        self.cls, self.sep, self.mask = (pieces.index(special) for special in ("[CLS]", "[SEP]", "[MASK]"))
        self.specials: NDArray[np.int64] = np.array([pieces.index(special) for special in SPECIALS])
        """[5] ids."""
        self.ordinary: NDArray[np.int64] = np.setdiff1d(np.arange(len(pieces)), self.specials)
        """[pieces - 5] ids of everything but the special tokens."""
        self._size = len(pieces)
        self._cached = lru_cache(_CACHED)(self.pieces)
        self.fingerprint = self._subwords.fingerprint

    def pieces(self, text: str) -> list[int]:
        """Ids of a text alone, as many as it has."""
        return self._subwords.ids(text.encode(errors="replace").decode())  # both libraries refuse half a character (a lone surrogate)

    def says_something(self, text: str) -> bool:
        """Whether a text has any piece: blanks have none, nor have characters without width."""
        return bool(self._cached(text))

    def encode(self, text: str, length: int) -> NDArray[np.int64]:
        """[length] `[CLS] X`, cut or padded."""
        return self.frame(self._cached(text), length)

    def target(self, text: str, length: int) -> NDArray[np.int64]:
        """[length] `[CLS] X [SEP]`, X cut so that the `[SEP]` stays, or padded: what the decoder is taught."""
        return self.frame_target(self._cached(text), length)

    def frame(self, pieces: Sequence[int], length: int) -> NDArray[np.int64]:
        """`encode` of ids."""
        return _padded([self.cls, *pieces[: length - 1]], length)

    def frame_target(self, pieces: Sequence[int], length: int) -> NDArray[np.int64]:
        """`target` of ids."""
        return _padded([self.cls, *pieces[: length - 2], self.sep], length)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first `[SEP]`, lower-case, without special tokens other than `[UNK]`; ids of no piece are passed over."""
        kept: list[int] = []
        for id_ in map(int, ids):
            if id_ == self.sep:
                break
            if id_ not in (PAD, self.cls, self.mask) and 0 <= id_ < self._size:
                kept.append(id_)
        return self._subwords.text(kept)


def _padded(ids: list[int], length: int) -> NDArray[np.int64]:
    row = np.full(length, PAD, dtype=np.int64)
    row[: len(ids)] = ids
    return row
