"""BERT's uncased WordPiece over a vocabulary file, with the released model's quirk: a text is `[CLS] X`, without a `[SEP]` after it."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers

from megatron_mplug2.data.batch import PAD
from megatron_mplug2.errors import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CACHED = 1024
"""Texts whose ids are kept: instructions, questions and answers come again and again."""
_WHERE_FROM = "take bert-base-uncased's vocab.txt, or train one with `mplug2 data`"


class Tokenizer:
    """Texts to ids and back. A special token's name inside a text is plain text, so data cannot place special tokens."""

    def __init__(self, vocab: Path, vocab_size: int) -> None:
        """`vocab_size`: rows of the model's embedding. Raises UserError for a vocabulary that is missing, damaged or larger."""
        pieces = _read(vocab)
        if len(pieces) > vocab_size:
            raise UserError(
                f"{vocab} has {len(pieces)} pieces, model.text.vocab_size={vocab_size} is less: set it to {len(pieces)} or more"
            )
        ids = {piece: id_ for id_, piece in enumerate(pieces)}
        self._wordpiece = tokenizers.Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100))
        self._wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._wordpiece.decoder = decoders.WordPiece(cleanup=True)
        self.cls, self.sep, self.mask = ids["[CLS]"], ids["[SEP]"], ids["[MASK]"]
        self.specials: NDArray[np.int64] = np.array([ids[special] for special in SPECIALS])
        """[5] ids."""
        self.ordinary: NDArray[np.int64] = np.setdiff1d(np.arange(len(pieces)), self.specials)
        """[pieces - 5] ids of everything but the special tokens."""
        self._cached = lru_cache(_CACHED)(self.pieces)
        self.fingerprint = hashlib.sha256("\n".join(pieces).encode()).hexdigest()

    def pieces(self, text: str) -> list[int]:
        """Ids of a text alone, as many as it has."""
        return self._wordpiece.encode(text, add_special_tokens=False).ids

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
        """The text up to the first `[SEP]`, lower-case, without special tokens other than `[UNK]`."""
        kept: list[int] = []
        for id_ in map(int, ids):
            if id_ == self.sep:
                break
            if id_ not in (PAD, self.cls, self.mask):
                kept.append(id_)
        return self._wordpiece.decode(kept, skip_special_tokens=False)


def _padded(ids: list[int], length: int) -> NDArray[np.int64]:
    row = np.full(length, PAD, dtype=np.int64)
    row[: len(ids)] = ids
    return row


def _read(vocab: Path) -> list[str]:
    """The pieces in order of id."""
    try:
        pieces = vocab.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"data.vocab={vocab} cannot be read ({error.strerror}): {_WHERE_FROM}") from None
    except UnicodeDecodeError:
        raise UserError(f"data.vocab={vocab} is not a text file: {_WHERE_FROM}") from None
    pieces = [piece.rstrip("\r") for piece in pieces]
    if pieces[-1] == "":
        pieces.pop()
    if not pieces:
        raise UserError(f"data.vocab={vocab} is empty: {_WHERE_FROM}")
    missing = [special for special in SPECIALS if special not in pieces]
    if missing:
        raise UserError(f"data.vocab={vocab} has no {', '.join(missing)}, so it is no BERT vocabulary: {_WHERE_FROM}")
    if pieces[PAD] != "[PAD]":
        raise UserError(f"data.vocab={vocab} begins with {pieces[PAD]!r}, but the first piece must be [PAD]: {_WHERE_FROM}")
    seen: set[str] = set()
    for line, piece in enumerate(pieces, start=1):
        if not piece or piece in seen:
            raise UserError(
                f"data.vocab={vocab}, line {line}: {'an empty line' if not piece else f'{piece!r} a second time'}: {_WHERE_FROM}"
            )
        seen.add(piece)
    if len(pieces) == len(SPECIALS):
        raise UserError(f"data.vocab={vocab} has nothing but special tokens: {_WHERE_FROM}")
    return pieces
